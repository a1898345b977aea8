"""What an issuer has revoked, as a verifier keeps it: exact, small, and only for as long as it matters.

Sessions, tokens and keys are in one flat table of open addressing (linear probing), two words an entry.
One word holds 56 bits of a keyed hash of kind and value and the number of the entry's expiry group; the
other holds 64 bits of a second hash: 120 bits that agree by accident once in 10**36. Each kind has a
domain of its own, so no ``jti`` passes for a ``rid``. Before the table lies a filter, a byte for each
eighth of a slot, which sends away nearly every token that is not listed. To forget a group is to mark
its number as dead; the entries go when the table is next rebuilt. What denies by time (clients, the
issuer) is rare, and is kept as it comes.

Forgetting late is harmless, because what an event denies has expired by then; forgetting early never
happens. Readers take no lock. They may run beside one writer; two writers must not overlap.
"""

from array import array
from typing import Final, NamedTuple

from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid, Seconds

# A table's first word is 56 bits of hash and, in its lowest 8, the number of the group, from 1 to 255: no
# word of an entry is zero, and zero ends a search.
MAX_GROUPS: Final = 255
"""With more different expiries than this, entries share the next later one's group."""
_LEAST_SIZE: Final = 8
_MAX_PAIRS: Final = 64

_RID: Final = Kind.RID
_JTI: Final = Kind.JTI
_KID: Final = Kind.KID
_CLIENT: Final = Kind.CLIENT
_ALL: Final = Kind.ALL

# The interpreter's hash of text is SipHash under a key that is drawn at start, so nobody outside can
# choose values that collide. Two first characters make two independent hashes of one value.
_FIRST: Final = {_RID: "r", _JTI: "j", _KID: "k"}
_SECOND: Final = {_RID: "R", _JTI: "J", _KID: "K"}
_EVERYONE: Final = "a"
_ONE_CLIENT: Final = "c"


class Probe(NamedTuple):
    """One token's hashes, for who asks about the same token again and again in one process."""

    hashes: tuple[tuple[Kind, int, int], ...]
    client_id: ClientId | None
    iat: NumericDate


class _Table(NamedTuple):
    """What a reader needs, replaced whole on a rebuild; ``live`` tells which group numbers still count."""

    first: "array[int]"
    second: "array[int]"
    size: int
    live: bytearray
    filter: bytearray


def probe(rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate) -> Probe:
    """The hashes under which a token could have been revoked, the same for every denylist of this process."""
    values = ((_RID, rid), (_JTI, jti), (_KID, kid))
    hashes = tuple((kind, *_hashes(kind, value)) for kind, value in values if value is not None)
    return Probe(hashes, client_id, iat)


def _hashes(kind: Kind, value: str) -> tuple[int, int]:
    return hash(_FIRST[kind] + value) >> 8, hash(_SECOND[kind] + value)


def _empty(size: int, live: bytearray) -> _Table:
    words = bytes(8 * size)
    return _Table(array("q", words), array("q", words), size, live, bytearray(8 * size))


def _find(table: _Table, mark: int, other: int) -> bool:
    """Whether a live entry of ``table`` has these two hashes."""
    first, second, size, live, _ = table
    at = mark % size
    while word := first[at]:
        if word >> 8 == mark and live[word & 255] and second[at] == other:
            return True
        at = at + 1 if at + 1 < size else 0
    return False


class Denylist:
    """Revocations of one issuer; empty at first.

    :meth:`apply` is commutative and idempotent, and nothing but :meth:`prune` takes away (V3).
    """

    __slots__ = (
        "_counts",
        "_dead",
        "_ends",
        "_has_jti",
        "_has_kid",
        "_has_rid",
        "_numbers",
        "_table",
        "_timed",
        "_used",
        "_width",
    )

    def __init__(self, *, width: Seconds = Seconds(300)) -> None:
        """Entries whose expiry falls into the same ``width`` seconds are forgotten together."""
        if width < 1:
            raise ValueError("a group spans at least one second")
        self._width = width
        self._table = _empty(_LEAST_SIZE, bytearray(MAX_GROUPS + 1))
        self._used = 0
        # Group numbers: when each ends and how many it holds, and those that are dead but still in the table.
        self._ends: dict[int, NumericDate] = {}
        self._numbers: dict[NumericDate, int] = {}
        self._counts = [0] * (MAX_GROUPS + 1)
        self._dead: set[int] = set()
        # Which kinds were ever added since the list was last empty: the others need no look.
        self._has_rid = self._has_jti = self._has_kid = False
        # By client, and for everyone: pairs of not_before and expiry, the latest not_before first.
        self._timed: dict[str, tuple[tuple[NumericDate, NumericDate], ...]] = {}

    def __len__(self) -> int:
        """How many entries are held, those not yet pruned included."""
        return sum(self._counts) + sum(map(len, self._timed.values()))

    @property
    def nbytes(self) -> int:
        """The memory of the table, without what is denied by time."""
        return (2 * 8 + 8) * self._table.size + len(self._table.live)

    def apply(self, event: RevocationEvent) -> None:
        """Deny what ``event`` names, at least until its ``expires_at``."""
        if event.not_before is None:
            self._add(event.kind, event.value, event.expires_at)
            # Last: a reader that sees the kind present also finds the entry.
            self._has_rid |= event.kind is _RID
            self._has_jti |= event.kind is _JTI
            self._has_kid |= event.kind is _KID
            return
        who = _EVERYONE if event.kind is _ALL else _ONE_CLIENT + event.value
        pairs = sorted({*self._timed.get(who, ()), (event.not_before, event.expires_at)}, reverse=True)
        kept: list[tuple[NumericDate, NumericDate]] = []
        for pair in pairs:
            # A pair that another one covers for longer says nothing.
            if not kept or pair[1] > kept[-1][1]:
                kept.append(pair)
        if len(kept) > _MAX_PAIRS:
            # Too many would make every event and every look slow. The two earliest become one that covers
            # both; what it denies for longer than it was told to has expired.
            last = kept.pop()
            kept[-1] = (kept[-1][0], last[1])
        self._timed[who] = tuple(kept)

    def covers(
        self, rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate
    ) -> Kind | None:
        """The kind of an event that denies a token of these facts, or None."""
        # Written out: a lookup that finds nothing, as nearly all do, costs less than a call.
        table = self._table
        likely = table.filter
        if self._has_rid and rid is not None:
            mark = hash("r" + rid) >> 8
            if likely[mark % len(likely)] and _find(table, mark, hash("R" + rid)):
                return _RID
        if self._has_jti and jti is not None:
            mark = hash("j" + jti) >> 8
            if likely[mark % len(likely)] and _find(table, mark, hash("J" + jti)):
                return _JTI
        if self._has_kid:
            mark = hash("k" + kid) >> 8
            if likely[mark % len(likely)] and _find(table, mark, hash("K" + kid)):
                return _KID
        return self._denied_by_time(client_id, iat) if self._timed else None

    def covers_probe(self, probe: Probe) -> Kind | None:
        """As :meth:`covers`, for hashes made earlier by :func:`probe`."""
        table = self._table
        for kind, mark, other in probe.hashes:
            if table.filter[mark % len(table.filter)] and _find(table, mark, other):
                return kind
        return self._denied_by_time(probe.client_id, probe.iat) if self._timed else None

    def prune(self, now: NumericDate) -> int:
        """Forget what has expired by ``now``, a whole group at a time; how many entries that were."""
        before = len(self)
        live = self._table.live
        for number in [number for number, end in self._ends.items() if end <= now]:
            live[number] = 0
            self._counts[number] = 0
            del self._numbers[self._ends.pop(number)]
            self._dead.add(number)
        if not self._ends:
            self._has_rid = self._has_jti = self._has_kid = False
        if self._dead and 4 * sum(self._counts) <= self._used:
            self._rebuild()
        if self._timed:
            pruned = {who: tuple(p for p in pairs if p[1] > now) for who, pairs in self._timed.items()}
            self._timed = {who: pairs for who, pairs in pruned.items() if pairs}
        return before - len(self)

    # --- reading -----------------------------------------------------------------------------------

    def _denied_by_time(self, client_id: ClientId | None, iat: NumericDate) -> Kind | None:
        if client_id is not None:
            pairs = self._timed.get(_ONE_CLIENT + client_id)
            if pairs and iat <= pairs[0][0]:
                return _CLIENT
        pairs = self._timed.get(_EVERYONE)
        return _ALL if pairs and iat <= pairs[0][0] else None

    # --- writing -----------------------------------------------------------------------------------

    def _add(self, kind: Kind, value: str, expires_at: NumericDate) -> None:
        number = self._group(NumericDate(-(-expires_at // self._width) * self._width))
        mark, other = _hashes(kind, value)
        first, second, size, live, likely = self._table
        at = mark % size
        while word := first[at]:
            if word >> 8 == mark and second[at] == other:
                held = word & 255
                if live[held]:
                    if self._ends[held] >= self._ends[number]:
                        return
                    self._counts[held] -= 1
                first[at] = mark << 8 | number
                self._counts[number] += 1
                return
            at = at + 1 if at + 1 < size else 0
        # In this order: a reader that sees the first word sees the second.
        second[at] = other
        first[at] = mark << 8 | number
        likely[mark % len(likely)] = 1
        self._counts[number] += 1
        self._used += 1
        if 3 * self._used > 2 * size:
            self._rebuild()

    def _group(self, end: NumericDate) -> int:
        """The number of the group that ends at ``end``, or, if numbers have run out, of a later one."""
        number = self._numbers.get(end)
        if number is not None:
            return number
        if len(self._ends) + len(self._dead) == MAX_GROUPS and self._dead:
            self._rebuild()
        if len(self._ends) == MAX_GROUPS:
            later = min((known for known in self._numbers if known > end), default=None)
            if later is not None:
                return self._numbers[later]
            # Every group ends earlier: the last of them lives longer.
            number = self._numbers.pop(max(self._numbers))
        else:
            number = next(n for n in range(1, MAX_GROUPS + 1) if n not in self._ends and n not in self._dead)
            self._table.live[number] = 1
        self._ends[number] = end
        self._numbers[end] = number
        return number

    def _rebuild(self) -> None:
        """Make a table of the live entries alone, between four ninths and two thirds full from now on."""
        old = self._table
        count = sum(self._counts)
        size = max(_LEAST_SIZE, count * 9 // 4 + 1)
        table = _empty(size, bytearray(old.live))
        first, second, likely = table.first, table.second, table.filter
        for word, other in zip(old.first, old.second, strict=True):
            if word and old.live[word & 255]:
                at = (word >> 8) % size
                while first[at]:
                    at = at + 1 if at + 1 < size else 0
                first[at] = word
                second[at] = other
                likely[(word >> 8) % len(likely)] = 1
        self._table = table
        self._used = count
        self._dead.clear()
