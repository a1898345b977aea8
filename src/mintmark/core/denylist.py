"""What an issuer has revoked, as a verifier keeps it: exact, small, and only for as long as it matters.

Sessions, tokens and keys have a table each, so no ``jti`` passes for a ``rid``. A table is a list of buckets,
and a bucket is one text: the values that hash there, each between two marks and followed by the time of its
end. To look a value up is to search a few hundred characters for it, which the interpreter does at the speed
of memory. Nothing is digested, so nothing agrees by accident. Before the buckets lies a filter of bytes, a
few times as many as entries, which sends away nearly every value that is not listed. What denies by time
(clients, the issuer) is rare, and is kept as it comes.

A table that has become too small, or that holds more expired entries than others, moves into another one: a
bucket or two with each entry that comes, and some with each :meth:`Denylist.prune`, so that nobody waits.
Forgetting late is harmless, because what an event denies has expired by then; forgetting early never happens.
Readers take no lock. They may run beside one writer; two writers must not overlap.
"""

from typing import Final, NamedTuple

from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid, Seconds

_MOST: Final = 10
"""Entries of a bucket, on average, beyond which a table doubles."""
_MOVED_BY_ENTRY: Final = 2
_MOVED_BY_PRUNING: Final = 1_000
"""Buckets that are emptied at once: two or three milliseconds."""
_SHRINKS_BY: Final = 16
"""How much smaller a table becomes in one move: so many buckets become one at a time."""
_FEW: Final = 64
"""Expired entries that are worth no move."""
_MAX_PAIRS: Final = 64
_KNOWN: Final = 1_000
"""Groups whose digits are remembered."""

_BEGIN: Final = "\n"
_END: Final = "\r"
"""What a value stands between; its span follows, up to the next value. So nothing but a value does."""
# The number of the span in which an entry ends, in digits that compare as the numbers do. The last
# number stands for whatever comes later: what ends after the year 2242 is kept.
_FIRST_DIGIT: Final = 33
_BASE: Final = 94
_LAST_SECOND: Final = 2**33

_SHIFT: Final = 6
_REACH: Final = 1 << _SHIFT
"""Bytes of the filter for each bucket: the lowest bits of a hash choose one, those above the bucket."""
_NOTHING: Final = b"\1" * _REACH

_OVERHEAD: Final = 49 + 8
"""Bytes of a bucket beside its characters: the header of a text, and its place in the list."""

_RID: Final = Kind.RID
_JTI: Final = Kind.JTI
_KID: Final = Kind.KID
_CLIENT: Final = Kind.CLIENT
_ALL: Final = Kind.ALL

_EVERYONE: Final = "a"
_ONE_CLIENT: Final = "c"


class _Buckets(NamedTuple):
    """The buckets of a table, a power of two of them; None is one that is elsewhere.

    A one in ``absent`` says that no value with that hash is here, nor elsewhere.
    """

    texts: list[str | None]
    absent: bytearray
    mask: int

    def place(self, value: str) -> int:
        """Which bucket ``value`` belongs in."""
        return (hash(value) & self.mask) >> _SHIFT


def _one_bucket() -> _Buckets:
    return _Buckets([""], bytearray(_NOTHING), _REACH - 1)


def _buckets_elsewhere(count: int) -> _Buckets:
    # Zeros alone, which cost least where there are millions.
    return _Buckets([None] * count, bytearray(_REACH * count), _REACH * count - 1)


class _Table:
    """The revoked values of one kind, each with the number of the span in which it ends."""

    __slots__ = ("_before", "_held", "_next", "_spans", "buckets", "live")

    def __init__(self) -> None:
        self.buckets = _one_bucket()
        # While a table moves: where from, and the next bucket of the smaller of the two that was not moved.
        self._before: _Buckets | None = None
        self._next = 0
        # Live entries by their span, their number, and that of all that are held, the expired too.
        self._spans: dict[str, int] = {}
        self.live = 0
        self._held = 0

    @property
    def nbytes(self) -> int:
        """The memory of the buckets and the filter."""
        sides = [self.buckets] if self._before is None else [self.buckets, self._before]
        texts = sum(_OVERHEAD + len(text) for side in sides for text in side.texts if text is not None)
        return texts + sum(len(side.absent) for side in sides)

    def bucket(self, value: str) -> str:
        """The bucket that holds ``value`` if anything does; for readers, at any moment."""
        while True:
            for side in (self.buckets, self._before):
                text = None if side is None else side.texts[side.place(value)]
                if text is not None:
                    return text
            # It was moved between the two looks, so the next one finds it.

    def holds(self, value: str) -> bool:
        """Whether ``value`` is held; for readers, at any moment."""
        texts, absent, mask = self.buckets
        place = hash(value) & mask
        if absent[place]:
            return False
        text = texts[place >> _SHIFT]
        if text is None:
            text = self.bucket(value)
        return f"\n{value}\r" in text and "\n" not in value

    def add(self, value: str, span: str, gone: str) -> None:
        """Hold ``value`` until ``span`` ends at least, which is after ``gone``; what ended by then may go."""
        if self._before is not None:
            self.move(_MOVED_BY_ENTRY, gone)
        texts, absent, mask = self.buckets
        place = hash(value) & mask
        index = place >> _SHIFT
        text = texts[index]
        if text is None:
            self._move(index, gone)
            text = texts[index] or ""
        needle = f"{_BEGIN}{value}{_END}"
        at = text.find(needle) + len(needle)
        if at < len(needle):
            # In this order: a reader whom the filter lets through finds the entry.
            texts[index] = f"{text}{needle}{span}"
            absent[place] = 0
            self._held += 1
        else:
            held = text[at : at + len(span)]
            if held >= span:
                return
            texts[index] = text[:at] + span + text[at + len(span) :]
            self._forget(held, 1)
        self._spans[span] = self._spans.get(span, 0) + 1
        self.live += 1
        if self.live > _MOST * len(texts) and self._before is None:
            self._begin(2 * len(texts))

    def prune(self, gone: str) -> int:
        """Forget what ended by ``gone``; how many entries that were."""
        before = self.live
        for span in [span for span in self._spans if span <= gone]:
            self._forget(span, self._spans[span])
        if not self.live:
            self.buckets, self._before, self._held = _one_bucket(), None, 0
        elif self._before is None:
            size = whole = len(self.buckets.texts)
            if max(size, self._held // 2) > self.live + _FEW:
                while size > 1 and 2 * self.live < _MOST * size and _SHRINKS_BY * size > whole:
                    size //= 2
                self._begin(size)
        self.move(_MOVED_BY_PRUNING, gone)
        return before - self.live

    def _forget(self, span: str, count: int) -> None:
        if span in self._spans:
            self._spans[span] -= count
            self.live -= count
            if not self._spans[span]:
                del self._spans[span]

    # --- moving --------------------------------------------------------------------------------------

    def _begin(self, size: int) -> None:
        """Begin to move into ``size`` buckets."""
        self._next = 0
        # In this order: who meets a bucket that is elsewhere knows where to look.
        self._before = self.buckets
        self.buckets = _buckets_elsewhere(size)

    def move(self, most: int, gone: str) -> None:
        """Empty ``most`` buckets or a few more, if the table moves."""
        before = self._before
        if before is None:
            return
        units = min(len(before.texts), len(self.buckets.texts))
        until = min(units, self._next + max(1, most * units // len(before.texts)))
        for unit in range(self._next, until):
            self._move(unit, gone)
        self._next = until
        if until == units:
            self._before = None

    def _move(self, index: int, gone: str) -> None:
        """Move what the bucket ``index`` gets from others, and all else that these hold."""
        before, after = self._before, self.buckets
        if before is None:
            return
        step = min(len(before.texts), len(after.texts))
        unit = index & (step - 1)
        if after.texts[unit] is not None:
            return
        parts: dict[int, list[str]] = {at: [] for at in range(unit, len(after.texts), step)}
        absent = {at: bytearray(_NOTHING) for at in parts}
        for at in range(unit, len(before.texts), step):
            for entry in (before.texts[at] or "").split(_BEGIN)[1:]:
                value, _, span = entry.partition(_END)
                if span > gone:
                    place = hash(value) & after.mask
                    parts[place >> _SHIFT].append(_BEGIN + entry)
                    absent[place >> _SHIFT][place & _REACH - 1] = 0
                else:
                    self._held -= 1
        # In this order: who finds a bucket neither here nor there looks again, and the filter is the last to
        # say that there is nothing.
        for at, entries in parts.items():
            after.texts[at] = "".join(entries)
            after.absent[at * _REACH : (at + 1) * _REACH] = absent[at]
        for at in range(unit, len(before.texts), step):
            before.texts[at] = None


class Denylist:
    """Revocations of one issuer; empty at first.

    :meth:`apply` is commutative and idempotent, and nothing but :meth:`prune` takes away (V3).
    """

    __slots__ = (
        "_gone",
        "_has_others",
        "_has_rid",
        "_jtis",
        "_kids",
        "_length",
        "_odd",
        "_rids",
        "_spans",
        "_timed",
        "_width",
    )

    def __init__(self, *, width: Seconds = Seconds(300)) -> None:
        """Entries whose expiry falls into the same ``width`` seconds are forgotten together."""
        if width < 1:
            raise ValueError("a group spans at least one second")
        self._width = width
        self._length = next(n for n in range(1, 9) if _BASE**n > _LAST_SECOND // width + 2)
        self._spans: dict[int, str] = {}
        # The number of the last group that has ended; of each the digits.
        self._gone = 0
        self._rids, self._jtis, self._kids = _Table(), _Table(), _Table()
        # What was ever added since there was none: only that needs a look.
        self._has_rid = self._has_others = False
        # By client, and for everyone: pairs of not_before and expiry, the latest not_before first.
        self._timed: dict[str, tuple[tuple[NumericDate, NumericDate], ...]] = {}
        # Values with one of the marks in them, which no issuer of ours makes.
        self._odd: dict[tuple[Kind, str], NumericDate] = {}

    def __len__(self) -> int:
        """How many entries are held, those not yet pruned included."""
        live = self._rids.live + self._jtis.live + self._kids.live
        return live + len(self._odd) + sum(map(len, self._timed.values()))

    @property
    def nbytes(self) -> int:
        """The memory of the tables, without what is denied by time. Takes long: all buckets are counted."""
        return self._rids.nbytes + self._jtis.nbytes + self._kids.nbytes

    def apply(self, event: RevocationEvent) -> None:
        """Deny what ``event`` names, at least until its ``expires_at``."""
        if event.not_before is None:
            self._add(event.kind, event.value, event.expires_at)
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
        self._has_others = True

    def covers(
        self, rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate
    ) -> Kind | None:
        """The kind of an event that denies a token of these facts, or None."""
        # Written out, and as few steps as can be: this is on the way of every good token.
        if self._has_rid and rid is not None:
            texts, absent, mask = self._rids.buckets
            place = hash(rid) & mask
            if not absent[place]:
                text = texts[place >> _SHIFT]
                if text is None:
                    text = self._rids.bucket(rid)
                if f"\n{rid}\r" in text and "\n" not in rid:
                    return _RID
        return self._covered(rid, jti, kid, client_id, iat) if self._has_others else None

    def prune(self, now: NumericDate) -> int:
        """Forget what has expired by ``now``, a whole group at a time; how many entries that were."""
        before = len(self)
        self._gone = max(self._gone, now // self._width)
        gone = self._digits_of(self._gone)
        for table in (self._rids, self._jtis, self._kids):
            table.prune(gone)
        self._has_rid = self._rids.live > 0
        self._timed = {
            who: left for who, pairs in self._timed.items() if (left := tuple(p for p in pairs if p[1] > now))
        }
        self._odd = {which: until for which, until in self._odd.items() if until > now}
        self._has_others = bool(self._jtis.live or self._kids.live or self._timed or self._odd)
        return before - len(self)

    # --- reading -----------------------------------------------------------------------------------

    def _covered(
        self, rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate
    ) -> Kind | None:
        """As :meth:`covers`, by whatever there is beside sessions."""
        if jti is not None and self._jtis.holds(jti):
            return _JTI
        if self._kids.holds(kid):
            return _KID
        if self._odd:
            for which in ((_RID, rid), (_JTI, jti), (_KID, kid)):
                if which in self._odd:
                    return which[0]
        if client_id is not None:
            pairs = self._timed.get(_ONE_CLIENT + client_id)
            if pairs and iat <= pairs[0][0]:
                return _CLIENT
        pairs = self._timed.get(_EVERYONE)
        return _ALL if pairs and iat <= pairs[0][0] else None

    # --- writing -----------------------------------------------------------------------------------

    def _add(self, kind: Kind, value: str, expires_at: NumericDate) -> None:
        if _BEGIN in value or _END in value:
            self._odd[kind, value] = max(expires_at, self._odd.get((kind, value), expires_at))
            self._has_others = True
            return
        number = -(-min(expires_at, _LAST_SECOND) // self._width)
        # What has ended already is kept until the next group ends too: a clock may have been set back.
        span, gone = self._digits_of(max(number, self._gone + 1)), self._digits_of(self._gone)
        # The flag comes last: a reader that sees that there is something also finds it.
        match kind:
            case Kind.RID:
                self._rids.add(value, span, gone)
                self._has_rid = True
            case Kind.JTI:
                self._jtis.add(value, span, gone)
                self._has_others = True
            case _:
                self._kids.add(value, span, gone)
                self._has_others = True

    def _digits_of(self, number: int) -> str:
        """The number of a group as it stands in a bucket."""
        known = self._spans.get(number)
        if known is None:
            left, digits = number, list[str]()
            for _ in range(self._length):
                left, digit = divmod(left, _BASE)
                digits.append(chr(_FIRST_DIGIT + digit))
            if len(self._spans) > _KNOWN:
                self._spans.clear()
            known = self._spans[number] = "".join(reversed(digits))
        return known
