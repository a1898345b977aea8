"""Copies of the public documents in folders and buckets, kept as the key ring says (design 3.7).

The store is the truth; what is at a place is derived from it, whole, and never from what was there before.
Every node keeps every place. What is there is looked at first and the ring is read after that, and a write
expects what the look found: at a place that honours conditions a node that was paused in between overwrites
nothing that is newer, unless the very set that it had looked at has come back meanwhile; then the next look
mends it. A place that does not honour them is looked at more often, for the same end.

Nothing here holds up rotation or requests: a place that is away is an alarm, and tried again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mintmark.core.events import EventName
from mintmark.core.jwk import is_thumbprint
from mintmark.core.key import KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.errors import Unavailable
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import KeyRingStore
from mintmark.ports.proof import ProofFailed, PublicReader, kids_of
from mintmark.ports.publisher import Entry, Found, Headers, PublicationFailed, Publisher, Version
from mintmark.server import document
from mintmark.server.audit import Audit
from mintmark.server.document import Document
from mintmark.units import Issuer, Kid

LOOK_EVERY: Final = 60.0
"""Seconds between two looks at a place where nothing changed: what else might have written there."""
LOOK_UNFENCED_EVERY: Final = 10.0
"""The same where a paused node's late write would be taken."""

_POLL: Final = 1.0
_PAUSE: Final = 0.2
"""Seconds between two rounds at the least: a busy store wakes the bus with every login."""
_LONGEST_BACKOFF: Final = 30.0
_REPEAT_ALARM: Final = 60.0
_CONTESTED: Final = "others write there at the same time"


# --- what is due -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Write ``entry`` in place of version ``over``, or where there is nothing."""

    name: str
    entry: Entry
    over: Version | None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key that is no longer published, for good: it never comes back under its name."""

    name: str


def name_of(path: str) -> str:
    """The name of the entry that is served at ``path``: places mirror the paths of the issuer's host."""
    return path.removeprefix("/")


def wanted(ring: Ring, issuer: Issuer, metadata: Document) -> Mapping[str, Entry]:
    """Every entry that a place should hold, by name, the most urgent first: the bytes that nodes serve.

    The key set comes first because of a key that was revoked, or has to be proven; the metadata last,
    because it names the key set.
    """
    max_age = metadata.max_age
    documents = {document.jwks_path(issuer): document.jwks(ring, max_age=max_age)}
    # A name that a database made up leads nowhere; the key is in the set, as it is where nodes serve it.
    for key in (key for key in ring.published() if is_thumbprint(key.kid)):
        documents[document.key_path(issuer, key.kid)] = document.key(key, max_age=max_age)
    documents |= dict.fromkeys(document.discovery_paths(issuer), metadata)
    return {name_of(path): _entry(found) for path, found in documents.items()}


def due(entries: Mapping[str, Entry], found: Mapping[str, Found]) -> Iterable[Put | Delete]:
    """What makes ``found`` into ``entries``, most urgent first."""
    for name, entry in entries.items():
        there = found.get(name)
        if there is None or not there.is_copy_of(entry):
            yield Put(name, entry, there.version if there is not None else None)
    for name in sorted(found.keys() - entries.keys()):
        yield Delete(name)


def _entry(found: Document) -> Entry:
    return Entry(found.body, Headers(document.JSON, found.cache_control))


@dataclass(frozen=True, slots=True)
class _State:
    """What of a ring is worth a look at once. A lease that was renewed moves an ``exp``: that can wait."""

    keys: frozenset[tuple[Kid, KeyState]]

    @classmethod
    def of(cls, ring: Ring) -> "_State":
        return cls(frozenset((key.kid, key.state) for key in ring.published()))


# --- doing it ----------------------------------------------------------------------------------


class Publication:
    """Keeps one place. ``metadata`` gives the discovery document that this node serves."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        place: Publisher,
        metadata: Callable[[Ring], Document],
        store: KeyRingStore,
        bus: Bus,
        clock: Clock,
        timing: Timing,
        audit: Audit,
    ) -> None:
        self._issuer = issuer
        self._place = place
        self._metadata = metadata
        self._store = store
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._audit = audit
        self._jwks: Final = name_of(document.jwks_path(issuer))
        self._discovery: Final = tuple(map(name_of, document.discovery_paths(issuer)))
        self._keys: Final = name_of(document.key_path(issuer, "")).rpartition("/")[0]
        self._known: dict[str, Found] = {}
        self._placed: _State | None = None
        """What is at the place, as far as this node knows."""
        self._fenced: bool | None = None
        self._look_at = float("-inf")
        self._retry_at = float("-inf")
        self._failures = 0
        self._behind_since: float | None = None
        self._alarmed_at = float("-inf")
        self._failing = False

    async def run(self) -> None:
        """Keep the place until cancelled."""
        subscription = self._bus.subscribe()
        try:
            while True:
                await self.round()
                await self._clock.sleep(_PAUSE)
                await subscription.wait(_POLL)
        finally:
            subscription.close()

    async def round(self) -> None:
        """Look and write where the ring has other keys than the place, or a look is due."""
        now = self._clock.monotonic()
        if now < self._retry_at:
            return
        try:
            ring = (await self._store.read(self._issuer)).ring
            # A ring that nobody has written yet would only empty a place that serves.
            if ring.generation == 0:
                return
            if _State.of(ring) == self._placed:
                self._behind_since = None
                if now < self._look_at:
                    return
            elif self._behind_since is None:
                self._behind_since = now
            done = await self._keep()
        except Unavailable:
            # Rotation says so already; what is at the place stays as it is.
            return
        except PublicationFailed as failed:
            self._failed(str(failed))
        else:
            self._succeeded() if done else self._lost()

    async def _keep(self) -> bool:
        """Whether the place now holds what the ring says; False where somebody else wrote meanwhile."""
        found = await self._look()
        # After the look: who wrote what is there had read this ring, or an earlier one.
        ring = (await self._store.read(self._issuer)).ring
        entries = wanted(ring, self._issuer, self._metadata(ring))
        state = _State.of(ring)
        changes = tuple(due(entries, found))
        if self._placed == state and any(change.name == self._jwks for change in changes):
            self._audit.record(EventName.PUBLICATION_OVERWRITTEN, place=self._place.place)
        for change in changes:
            match change:
                case Put(name, entry, over):
                    if not await self._place.put(name, entry, over=over):
                        return False
                case Delete(name):
                    await self._place.delete(name)
        if self._placed != state:
            self._placed = state
            self._audit.record(
                EventName.PUBLICATION_UPDATED,
                place=self._place.place,
                generation=ring.generation,
                keys=len(ring.published()),
            )
        if self._fenced is None and not changes:
            await self._probe(entries, found)
        return True

    async def _look(self) -> Mapping[str, Found]:
        """What is at the place under the names that are ours; keys are read again when they changed."""
        names = [self._jwks, *self._discovery]
        versions = await self._place.versions(self._keys)
        keys: dict[str, Found] = {}
        for name, version in versions.items():
            if not is_thumbprint(name.removeprefix(self._keys + "/").removesuffix(".json")):
                continue
            known = self._known.get(name)
            if known is not None and known.version == version:
                keys[name] = known
            else:
                names.append(name)
        read = {name: found for name in names if (found := await self._place.read(name)) is not None}
        self._known = keys | {name: found for name, found in read.items() if name in versions}
        return keys | read

    async def _probe(self, entries: Mapping[str, Entry], found: Mapping[str, Found]) -> None:
        """Whether the place refuses a write that expects something else, or takes it in silence.

        It is tried on the metadata, with the bytes that are there: all nodes agree on those, so that a write
        which is taken changes nothing.
        """
        name = self._discovery[0]
        wrong = found[self._jwks].version
        taken = [await self._place.put(name, entries[name], over=over) for over in (None, wrong)]
        self._fenced = not any(taken)
        if not self._fenced:
            self._audit.record(EventName.PUBLICATION_UNFENCED, place=self._place.place)

    # --- when to look again --------------------------------------------------------------------------

    def _succeeded(self) -> None:
        self._failures = 0
        self._behind_since = None
        # The first look that finds nothing to do is the one that probes; it follows at once.
        every = {None: _POLL, True: LOOK_EVERY, False: LOOK_UNFENCED_EVERY}[self._fenced]
        self._look_at = self._clock.monotonic() + every
        if self._failing:
            self._failing = False
            self._audit.record(EventName.PUBLICATION_RESTORED, place=self._place.place)

    def _lost(self) -> None:
        """Another node was first, which is good; that it always is, is what a server that lies looks like."""
        self._wait()
        behind = self._behind()
        if behind is not None and behind > self._timing.propagation:
            self._alarm(_CONTESTED)

    def _failed(self, reason: str) -> None:
        self._wait()
        self._alarm(reason)

    def _wait(self) -> None:
        self._failures += 1
        self._retry_at = self._clock.monotonic() + min(2.0 ** (self._failures - 1), _LONGEST_BACKOFF)

    def _behind(self) -> int | None:
        """Seconds for which the place has lacked the keys that it should hold, so far as is known."""
        return None if self._behind_since is None else int(self._clock.monotonic() - self._behind_since)

    def _alarm(self, reason: str) -> None:
        now = self._clock.monotonic()
        if self._failing and now - self._alarmed_at < _REPEAT_ALARM:
            return
        self._failing, self._alarmed_at = True, now
        self._audit.record(
            EventName.PUBLICATION_FAILED, place=self._place.place, reason=reason, behind=self._behind()
        )


class PlaceReader:
    """:class:`mintmark.ports.proof.PublicReader` that also reads places, by the URL of their setting."""

    def __init__(self, inner: PublicReader, places: Iterable[Publisher], issuer: Issuer) -> None:
        self._inner = inner
        self._places = {place.place: place for place in places}
        self._name = name_of(document.jwks_path(issuer))

    async def kids(self, url: str) -> frozenset[Kid]:
        """The ``kid`` of every key at ``url``. Raises ProofFailed."""
        place = self._places.get(url)
        if place is None:
            return await self._inner.kids(url)
        try:
            found = await place.read(self._name)
            return kids_of(found.body) if found is not None else frozenset()
        except PublicationFailed as failed:
            raise ProofFailed(str(failed)) from failed
        except ValueError:
            raise ProofFailed(f"{url}: what is there is no key set") from None
