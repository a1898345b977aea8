"""Whether a token is good: one pure function, thirteen checks, the first failure wins.

::

    1 form      2 base64url   3 header JSON   4 header policy   5 payload JSON   6 iss
    7 aud exp nbf             8 key           9 signature      10 typed claims  11 cnf
    12 revocation            13 scopes

A driver holds one immutable :class:`Trusted`: what it believes about each issuer now. It calls
:func:`verify` with it, the token and the time, and gets an :class:`~mintmark.core.claims.AccessToken`
or one of::

    InvalidToken            401; ``code`` is a Code of core.refusal
    InsufficientScope       403
    VerifierUnavailable     503; ``revocation_stale``
    KeyAbsent               for the driver alone: no such key here, and every check that needs no key
                            has passed. It decides (fetch and call again; 401; 503), and never lets
                            this error out.

Nothing else comes out, whatever goes in. A driver without keys (cold, or keys too old) passes a
:class:`Trust` with no keys: tokens that are wrong in themselves are still refused, the others end in
KeyAbsent. When keys or revocations change it makes a new Trusted with :meth:`Trusted.replace` and swaps
the reference; callers in flight finish with the old one. The denylist alone may change in place.

The work on any token is bounded by its size, checked first: one base64 decode and one JSON parse of
each part, and at most one signature.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mintmark.core import jws, strict_json
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import (
    AccessToken,
    Profile,
    Revocation,
    access_token,
    refuse_claim,
    texts_of,
    time_of,
)
from mintmark.core.denylist import Denylist, Probe
from mintmark.core.jwk import PublicKey, is_thumbprint
from mintmark.core.refusal import Code
from mintmark.errors import (
    ConfigurationError,
    InsufficientScope,
    InvalidToken,
    MintmarkError,
    VerifierUnavailable,
)
from mintmark.units import Issuer, Kid, NumericDate, Seconds

MAX_LEEWAY: Final = Seconds(300)
"""The largest leeway on ``exp``: issuers keep keys and revocations that much longer, and no more."""
NOTHING_PASSES: Final = NumericDate(strict_json.MIN_INTEGER)
"""A ``cutoff`` that every token is issued after."""

_TYPS: Final[Mapping[Profile, frozenset[str | None]]] = MappingProxyType(
    {Profile.RFC9068: frozenset({"at+jwt"}), Profile.JWT: frozenset({"at+jwt", "jwt", None})}
)
_CACHED_HEADERS: Final = 256
_CACHED_HEADER_SIZE: Final = 1024
_NO_SCOPES: Final[frozenset[str]] = frozenset()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is believed about one issuer at one moment.

    ``keys`` holds those that the newest key set or the live feed lists. ``denylist`` is None for an issuer
    without a feed, whose ``revocation`` is ``unsupported``. ``cutoff``: a validly signed token issued later
    cannot be judged, because the revocations known here may be older than it (None: no such limit).
    """

    policy: Policy
    keys: Mapping[Kid, PublicKey] = field(repr=False)
    denylist: Denylist | None = field(default=None, repr=False)
    revocation: Revocation = Revocation.UNSUPPORTED
    cutoff: NumericDate | None = None

    def __post_init__(self) -> None:
        if (self.denylist is None) is not (self.revocation is Revocation.UNSUPPORTED):
            raise ValueError("revocation is unsupported exactly where there is no denylist")


class Trusted:
    """Every issuer that is trusted, each with its :class:`Trust`; immutable.

    It also remembers the headers of tokens that it has verified: an issuer's header is the same bytes for
    as long as a key signs, and only a valid signature gets a header remembered, so no stranger can fill
    that memory.
    """

    __slots__ = ("algorithms", "headers", "max_size", "trusts", "typs")

    def __init__(self, trusts: Iterable[Trust], *, max_size: int = jws.MAX_SIZE) -> None:
        """Raises ConfigurationError when two trusts name one issuer."""
        by_issuer: dict[str, Trust] = {}
        for trust in trusts:
            if trust.policy.issuer in by_issuer:
                raise ConfigurationError("issuer", "an issuer is configured once")
            by_issuer[trust.policy.issuer] = trust
        self.trusts: Mapping[str, Trust] = MappingProxyType(by_issuer)
        self.max_size = max_size
        # What some issuer allows: all that can be said before the payload names the issuer (step 4).
        self.algorithms = frozenset().union(*(t.policy.algorithms for t in by_issuer.values()))
        self.typs: frozenset[str | None] = frozenset().union(
            *(_TYPS[t.policy.profile] for t in by_issuer.values())
        )
        self.headers: dict[bytes, jws.Header] = {}

    def replace(self, trust: Trust) -> "Trusted":
        """The same, but for what is believed about ``trust``'s issuer."""
        others = (t for t in self.trusts.values() if t.policy.issuer != trust.policy.issuer)
        return Trusted([*others, trust], max_size=self.max_size)


class KeyAbsent(MintmarkError):
    """No key ``kid`` of ``issuer`` is known, and nothing else is wrong so far; never leaves a driver."""

    def __init__(self, issuer: Issuer, kid: Kid, alg: Algorithm, iat: NumericDate) -> None:
        super().__init__("the issuer's key is not known here")
        self.issuer = issuer
        self.kid = kid
        self.alg = alg
        self.iat = iat


def verify(
    raw: object,
    trusted: Trusted,
    now: NumericDate,
    *,
    scopes: frozenset[str] = _NO_SCOPES,
    fresh_revocation: bool = False,
) -> AccessToken:
    """The access token that ``raw`` (text or bytes) is, if it is good at ``now`` and has all ``scopes``.

    ``fresh_revocation`` refuses with 503 unless the issuer's feed is live. Raises as the module says.
    """
    # 1 and 2, then 3 and 4 unless these very bytes were found good before.
    message, header_part, payload_part, signature_part = jws.split(raw, max_size=trusted.max_size)
    header = trusted.headers.get(header_part)
    known = header is not None
    header_bytes = b"" if known else jws.decode(header_part)
    payload = jws.decode(payload_part)
    signature = jws.decode(signature_part)
    if header is None:
        header = jws.parse_header(header_bytes)
        _check_header(header, trusted.algorithms, trusted.typs)
    kid = header.kid
    # 5
    claims = _payload(payload)
    # 6
    iss = claims.get("iss")
    if type(iss) is not str:
        refuse_claim(claims, "iss")
    trust = trusted.trusts.get(iss)
    if trust is None:
        raise InvalidToken(Code.UNKNOWN_ISSUER, "iss is no configured issuer")
    policy = trust.policy
    # 4 once more, now that the issuer is known: another issuer's permission is not this one's.
    if header.alg not in policy.algorithms or header.typ not in _TYPS[policy.profile]:
        _check_header(header, policy.algorithms, _TYPS[policy.profile])
    # 7
    aud = texts_of(claims, policy.audience_claim)
    if policy.audiences.isdisjoint(aud):
        raise InvalidToken(Code.WRONG_AUDIENCE, "aud names no audience of this service")
    check_exp(time_of(claims, "exp"), policy, now)
    if "nbf" in claims and time_of(claims, "nbf") > now + policy.leeway:
        raise InvalidToken(Code.NOT_YET_VALID, "nbf has not come")
    # 8
    key = trust.keys.get(kid)  # type: ignore[arg-type]
    if key is None:
        raise _key_absent(header, claims, trust, aud, now)
    if key.alg is not header.alg:
        raise InvalidToken(Code.ALG_MISMATCH, "the key is for another algorithm than the header names")
    # 9
    jws.verify(key, message, signature)
    if not known and len(header_part) <= _CACHED_HEADER_SIZE:
        headers = trusted.headers
        if len(headers) >= _CACHED_HEADERS:
            headers.clear()
        headers[header_part] = header
    # 10 to 13
    token = access_token(claims, policy.profile, aud=aud, kid=key.kid, revocation=trust.revocation)
    _check_times(token, policy, now)
    _check_bearer(claims)
    admit(token, trust, scopes=scopes, fresh_revocation=fresh_revocation)
    return token


def admit(
    token: AccessToken,
    trust: Trust,
    *,
    scopes: frozenset[str] = _NO_SCOPES,
    fresh_revocation: bool = False,
    probe: Probe | None = None,
) -> None:
    """Steps 12 and 13 for a token whose signature is known to be good: what can change while it lives.

    Whoever keeps verified tokens calls this and :func:`check_exp` at each use, with the ``probe`` that
    :func:`mintmark.core.denylist.probe` made of it. Raises InvalidToken (``revoked``),
    VerifierUnavailable (``revocation_stale``), InsufficientScope.
    """
    denylist = trust.denylist
    if denylist is not None:
        if probe is None:
            kind = denylist.covers(token.rid, token.jti, token.kid, token.client_id, token.iat)
        else:
            kind = denylist.covers_probe(probe)
        if kind is not None:
            raise InvalidToken(Code.REVOKED, f"revoked by {kind.value}")
    if trust.cutoff is not None and token.iat > trust.cutoff:
        raise VerifierUnavailable(Code.REVOCATION_STALE, "the token is newer than the revocations known here")
    if fresh_revocation and trust.revocation is not Revocation.CHECKED:
        raise VerifierUnavailable(Code.REVOCATION_STALE, "revocations are not up to date")
    if scopes and not scopes <= token.scopes:
        raise InsufficientScope(tuple(sorted(scopes - token.scopes)))


def check_exp(exp: NumericDate, policy: Policy, now: NumericDate) -> None:
    """Raise InvalidToken (``expired``) when ``now`` >= ``exp`` + ``exp_leeway`` (RFC 7519 s.4.1.4)."""
    if now >= exp + policy.exp_leeway:
        raise InvalidToken(Code.EXPIRED, "exp has passed")


def _payload(data: bytes) -> dict[str, Any]:
    try:
        claims = strict_json.decode(data)
    except strict_json.NotStrictJson as error:
        raise InvalidToken(Code.BAD_PAYLOAD, f"the payload is refused: {error}") from None
    if type(claims) is not dict:
        raise InvalidToken(Code.BAD_PAYLOAD, "the payload is no object")
    return claims


def _check_header(header: jws.Header, algorithms: frozenset[Algorithm], typs: frozenset[str | None]) -> None:
    if header.alg not in algorithms:
        raise InvalidToken(Code.ALG_NOT_ALLOWED, "alg is not allowed for this issuer")
    if header.typ not in typs:
        raise InvalidToken(Code.TYP_NOT_ALLOWED, "typ is not an access token's")
    if header.kid is None:
        raise InvalidToken(Code.BAD_KID, "kid is missing")


def _check_times(token: AccessToken, policy: Policy, now: NumericDate) -> None:
    lifetime = token.exp - token.iat
    if lifetime > policy.max_lifetime or lifetime <= 0:
        raise InvalidToken(Code.LIFETIME_TOO_LONG, "exp is too far from iat, or not behind it")
    if token.iat > now + policy.leeway:
        raise InvalidToken(Code.ISSUED_IN_FUTURE, "iat is in the future")


def _check_bearer(claims: Mapping[str, Any]) -> None:
    # RFC 7800 s.3.1: whoever merely shows such a token has not proved that it is his.
    if "cnf" in claims:
        raise InvalidToken(Code.SENDER_CONSTRAINED, "cnf binds the token to a key that a bearer cannot prove")


def _key_absent(
    header: jws.Header, claims: dict[str, Any], trust: Trust, aud: tuple[str, ...], now: NumericDate
) -> MintmarkError:
    """What step 8 raises: steps 10 and 11 go first, since only a plausible token is worth a fetch."""
    kid, policy = header.kid, trust.policy
    if kid is None or (policy.thumbprint_kids and not is_thumbprint(kid)):
        return InvalidToken(Code.UNKNOWN_KID, "kid has not the shape of this issuer's keys")
    token = access_token(claims, policy.profile, aud=aud, kid=kid, revocation=trust.revocation)
    _check_times(token, policy, now)
    _check_bearer(claims)
    return KeyAbsent(policy.issuer, kid, header.alg, token.iat)
