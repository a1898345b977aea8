"""What a revocation says, whoever reports it: the log, the feed and the denylist speak in these words."""

from enum import StrEnum

import msgspec

from mintmark.units import NumericDate


class Kind(StrEnum):
    """What a revocation names."""

    RID = "rid"
    """A refresh session: every access token that carries its ``rid``."""
    JTI = "jti"
    """One token."""
    KID = "kid"
    """A signing key: every token it signed, ever."""
    CLIENT = "client"
    """A client: every token issued to it up to ``not_before``."""
    ALL = "all"
    """The issuer: every token it issued up to ``not_before``; ``value`` is empty."""

    @property
    def by_time(self) -> bool:
        """Whether only tokens with ``iat <= not_before`` are denied."""
        return self is Kind.CLIENT or self is Kind.ALL


class RevocationEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False
):
    """One line of the revocation log.

    ``expires_at``: from then on no token that it denies could be accepted anyway, and it may be
    forgotten. ``not_before``: a number for ``client`` and ``all``, None for the other kinds.
    Raises ValueError where kind and ``not_before`` contradict each other.
    """

    kind: Kind
    value: str
    expires_at: NumericDate
    not_before: NumericDate | None = None

    def __post_init__(self) -> None:
        if self.kind.by_time is (self.not_before is None):
            raise ValueError("not_before belongs to the kinds client and all, and to no other")
