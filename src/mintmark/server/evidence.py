"""What a node has seen of its keys: in its own listener's answers, at public URLs, in folders and buckets."""

from collections.abc import Awaitable, Callable
from typing import Final

from mintmark.core import succession
from mintmark.core.events import EventName
from mintmark.core.key import Key, KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.ports.clock import Clock
from mintmark.ports.keyring import RingView
from mintmark.ports.proof import PublicReader
from mintmark.server.alarm import Alarms
from mintmark.server.readback import Readback
from mintmark.units import Kid, NumericDate


class Evidence:
    """Reads keys back beside the rounds of rotation; a round asks, and a later one gets the answer.

    ``own_url`` is the key set at this node's own listener, ``proof_urls`` are the public ones, ``places`` the
    folders and buckets with a copy. ``served`` gives the ring generation that every worker serves.
    """

    def __init__(
        self,
        *,
        own_url: str,
        proof_urls: tuple[str, ...],
        places: tuple[str, ...],
        reader: PublicReader,
        clock: Clock,
        timing: Timing,
        alarms: Alarms,
        served: Callable[[], int],
        on_found: Callable[[], Awaitable[None]],
    ) -> None:
        self._timing = timing
        self._alarms = alarms
        self._served_generation = served
        self._own = Readback((own_url,), reader=reader, clock=clock, on_found=on_found)
        self._public = Readback((*proof_urls, *places), reader=reader, clock=clock, on_found=on_found)
        self._copies = Readback(places, reader=reader, clock=clock, on_found=on_found)
        self._readbacks: Final = (self._own, self._public, self._copies)

    async def answered(self) -> None:
        """Wait until every key set that is being read back has been."""
        for readback in self._readbacks:
            await readback.answered()

    async def close(self) -> None:
        """End every look, and begin none any more."""
        for readback in self._readbacks:
            await readback.close()

    def served(self, ring: Ring, held: frozenset[Kid], now: NumericDate) -> frozenset[Kid]:
        """The prepared ones of ``held`` that this node's own listener shows; what it saw of others is
        forgotten."""
        for readback in self._readbacks:
            readback.keep_only(held)
        prepared = (key for key in ring.keys if key.state is KeyState.PREPARED and key.kid in held)
        return frozenset(key.kid for key in prepared if self._is_served(key, now))

    def _is_served(self, key: Key, now: NumericDate) -> bool:
        if self._served_generation() < key.since:
            return False
        if self._own.has_found(key.kid):
            return self._is_placed(key, now)
        if (missing := self._own.missing(key.kid)) is not None:
            self._alarms.sound(EventName.PROOF_FAILED, key.kid, reason=missing)
        return False

    def _is_placed(self, key: Key, now: NumericDate) -> bool:
        """Whether every folder and bucket shows the key, or has had the time that publication may take.

        One that is away for longer is an alarm, but must not leave an issuer without any key.
        """
        return self._copies.has_found(key.kid) or now > key.prepared_at + self._timing.propagation

    def proves(self, key: Key, view: RingView) -> bool:
        """Whether ``key`` was read back through every public URL while every live node serves it (3.3).

        Where it was not, and caches have had the time that they may take, this alarms.
        """
        behind = succession.unserved(key, view.members, view.now)
        if behind:
            # What is read while some node may still answer without the key proves nothing.
            self._public.forget(key.kid)
            missing: str | None = f"{len(behind)} live nodes do not serve the key yet"
        elif self._public.has_found(key.kid):
            return True
        else:
            missing = self._public.missing(key.kid)
        late = view.now > key.prepared_at + self._timing.jwks_max_age + self._timing.propagation
        if missing is not None and late:
            self._alarms.sound(EventName.PROOF_FAILED, key.kid, reason=missing)
        return False

    def check_unproven(self, view: RingView, held: frozenset[Kid]) -> None:
        """Look whether verifiers find those of ``held`` that had to sign without proof, and alarm while they
        do not.

        An issuer's URL that is wrong would otherwise come out at the first rotation, hours later.
        """
        for key in view.ring.keys:
            unproven = key.state is KeyState.ACTIVE and key.proven_at is None and key.kid in held
            late = view.now > (key.activated_at or view.now) + self._timing.propagation
            if unproven and late and not self._public.has_found(key.kid):
                missing = self._public.missing(key.kid)
                if missing is not None:
                    self._alarms.sound(EventName.PROOF_FAILED, key.kid, reason=missing)
