"""What a service demands of one issuer's tokens."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mintmark.core.algorithm import Algorithm
from mintmark.errors import ConfigurationError
from mintmark.units import Issuer, Seconds

MAX_LEEWAY: Final = Seconds(300)
"""The largest leeway: issuers keep keys and revocations that much longer than tokens, and no more."""


class Profile(StrEnum):
    """Which tokens an issuer issues."""

    RFC9068 = "rfc9068"
    """``typ`` is ``at+jwt``; ``client_id`` and ``jti`` are required; scopes are in ``scope``."""
    JWT = "jwt"
    """What Keycloak, Auth0, Entra and Cognito issue: ``typ`` may be ``JWT`` or absent, ``client_id`` may
    be called ``azp`` or ``appid``, ``scope`` may be called ``scp``, and ``jti`` may be absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one issuer's tokens must be to be accepted here.

    ``audiences``: this service's names, one of which must be in the token's. ``leeway`` is for ``iat`` and
    ``nbf``, ``exp_leeway`` for ``exp``. ``max_lifetime`` is the most that ``exp`` may lie behind ``iat``.
    ``audience_claim`` is ``client_id`` for Cognito, whose access tokens have no ``aud``.
    ``thumbprint_kids``: the issuer is a Mintmark, so a ``kid`` of another shape is never worth a fetch.
    Raises ConfigurationError for a policy that would accept anything, or nothing.
    """

    issuer: Issuer
    audiences: frozenset[str]
    algorithms: frozenset[Algorithm] = frozenset(Algorithm)
    profile: Profile = Profile.RFC9068
    leeway: Seconds = Seconds(60)
    exp_leeway: Seconds = Seconds(30)
    max_lifetime: Seconds = Seconds(86_400)
    audience_claim: str = "aud"
    thumbprint_kids: bool = False

    def __post_init__(self) -> None:
        if not self.issuer:
            raise ConfigurationError("issuer", "an issuer has a name")
        if type(self.audiences) is not frozenset or not self.audiences or "" in self.audiences:
            raise ConfigurationError("audience", "a service has at least one audience, and none is empty")
        if not self.algorithms or not self.algorithms <= frozenset(Algorithm):
            raise ConfigurationError("algorithms", "at least one of RS256, PS256, ES256 and EdDSA")
        for name in ("leeway", "exp_leeway"):
            if not 0 <= getattr(self, name) <= MAX_LEEWAY:
                raise ConfigurationError(name, f"a leeway is between 0 and {MAX_LEEWAY} seconds")
        if self.max_lifetime < 1:
            raise ConfigurationError("max_lifetime", "a token lives at least one second")
        if self.audience_claim not in {"aud", "client_id"}:
            raise ConfigurationError("audience_claim", "the audience is in aud or in client_id")
