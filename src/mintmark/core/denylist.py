"""What an issuer has revoked, as a verifier keeps it: exact, and only for as long as it matters.

Every kind lives in one table of digests, each kind in a domain of its own, so that no ``jti`` can pass
for a ``rid``. Entries are grouped by expiry and forgotten a group at a time: forgetting late is
harmless, since what an event denies has expired by then, and forgetting early never happens.

Readers take no lock. They may run beside one writer; two writers must not overlap.
"""

from hashlib import sha256
from typing import Final, NamedTuple

from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid, Seconds

MAX_GROUPS: Final = 16
"""A lookup asks each group once, so beyond this many the two smallest neighbours become one."""
_DIGEST_SIZE: Final = 16
# Later than every iat: rid, jti and kid deny whatever the token's time of issue.
_ALWAYS: Final = NumericDate(2**63)

_RID: Final = Kind.RID
_JTI: Final = Kind.JTI
_KID: Final = Kind.KID
_CLIENT: Final = Kind.CLIENT
_ALL: Final = Kind.ALL


def _digest(prefix: bytes, value: str) -> bytes:
    return sha256(prefix + value.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_SIZE]


_PREFIX: Final = {kind: kind.value.encode() + b"\0" for kind in Kind}
_RID_PREFIX: Final = _PREFIX[_RID]
_JTI_PREFIX: Final = _PREFIX[_JTI]
_KID_PREFIX: Final = _PREFIX[_KID]
_CLIENT_PREFIX: Final = _PREFIX[_CLIENT]
_ALL_DIGEST: Final = _digest(_PREFIX[_ALL], "")


class Probe(NamedTuple):
    """One token's digests, for who asks about the same token again and again."""

    digests: tuple[tuple[Kind, bytes], ...]
    iat: NumericDate


def probe(rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate) -> Probe:
    """The digests under which a token could have been revoked; the same for every denylist."""
    digests = [(_KID, _digest(_KID_PREFIX, kid)), (_ALL, _ALL_DIGEST)]
    if rid is not None:
        digests.insert(0, (_RID, _digest(_RID_PREFIX, rid)))
    if jti is not None:
        digests.append((_JTI, _digest(_JTI_PREFIX, jti)))
    if client_id is not None:
        digests.append((_CLIENT, _digest(_CLIENT_PREFIX, client_id)))
    return Probe(tuple(digests), iat)


class Denylist:
    """Revocations of one issuer; empty at first.

    :meth:`apply` is commutative and idempotent, and nothing but :meth:`prune` takes away (V3).
    """

    __slots__ = ("_groups", "_present", "_width")

    def __init__(self, *, width: Seconds = Seconds(300)) -> None:
        """Entries whose expiry falls into the same ``width`` seconds are forgotten together."""
        if width < 1:
            raise ValueError("a group spans at least one second")
        self._width = width
        # Replaced whole when a group comes or goes, so that a reader's loop sees one state of it.
        self._groups: tuple[tuple[NumericDate, dict[bytes, NumericDate]], ...] = ()
        self._present: frozenset[Kind] = frozenset()

    def __len__(self) -> int:
        """How many entries are held, those not yet pruned included."""
        return sum(len(group) for _, group in self._groups)

    def apply(self, event: RevocationEvent) -> None:
        """Deny what ``event`` names, at least until its ``expires_at``."""
        kind = event.kind
        digest = _ALL_DIGEST if kind is _ALL else _digest(_PREFIX[kind], event.value)
        not_before = _ALWAYS if event.not_before is None else event.not_before
        group = self._group(event.expires_at)
        known = group.get(digest)
        if known is None or known < not_before:
            group[digest] = not_before
        if kind not in self._present:
            # Last: a reader that sees the kind present also finds the entry.
            self._present |= {kind}

    def covers(
        self, rid: Rid | None, jti: Jti | None, kid: Kid, client_id: ClientId | None, iat: NumericDate
    ) -> Kind | None:
        """The kind of an event that denies a token of these facts, or None."""
        if not self._groups:
            return None
        present = self._present
        if rid is not None and _RID in present and self._denies(_digest(_RID_PREFIX, rid), iat):
            return _RID
        if jti is not None and _JTI in present and self._denies(_digest(_JTI_PREFIX, jti), iat):
            return _JTI
        if _KID in present and self._denies(_digest(_KID_PREFIX, kid), iat):
            return _KID
        if (
            client_id is not None
            and _CLIENT in present
            and self._denies(_digest(_CLIENT_PREFIX, client_id), iat)
        ):
            return _CLIENT
        if _ALL in present and self._denies(_ALL_DIGEST, iat):
            return _ALL
        return None

    def covers_probe(self, probe: Probe) -> Kind | None:
        """As :meth:`covers`, for digests made earlier by :func:`probe`."""
        for kind, digest in probe.digests:
            if self._denies(digest, probe.iat):
                return kind
        return None

    def prune(self, now: NumericDate) -> int:
        """Forget the groups whose every entry has expired by ``now``; how many entries that were."""
        kept = tuple(group for group in self._groups if group[0] > now)
        dropped = len(self) - sum(len(group) for _, group in kept)
        self._groups = kept
        if not kept:
            self._present = frozenset()
        return dropped

    def _denies(self, digest: bytes, iat: NumericDate) -> bool:
        for _, group in self._groups:
            not_before = group.get(digest)
            if not_before is not None and iat <= not_before:
                return True
        return False

    def _group(self, expires_at: NumericDate) -> dict[bytes, NumericDate]:
        """The group to put an entry into: the first that lives long enough, within one width."""
        end = NumericDate(-(-expires_at // self._width) * self._width)
        for known, group in self._groups:
            if known == end:
                return group
        fresh: dict[bytes, NumericDate] = {}
        groups = sorted([*self._groups, (end, fresh)], key=lambda group: group[0])
        if len(groups) <= MAX_GROUPS:
            self._groups = tuple(groups)
            return fresh
        return self._merge(groups, fresh)

    def _merge(
        self, groups: list[tuple[NumericDate, dict[bytes, NumericDate]]], fresh: dict[bytes, NumericDate]
    ) -> dict[bytes, NumericDate]:
        """Make one of the two neighbours with the fewest entries; the earlier lives as long as the later."""
        at = min(range(len(groups) - 1), key=lambda i: len(groups[i][1]) + len(groups[i + 1][1]))
        (_, earlier), (end, later) = groups[at], groups[at + 1]
        # A new table: a reader may be inside either of the old ones.
        both = dict(later)
        for digest, not_before in earlier.items():
            both[digest] = max(not_before, both.get(digest, not_before))
        groups[at : at + 2] = [(end, both)]
        self._groups = tuple(groups)
        return both if fresh is earlier or fresh is later else fresh
