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
from typing import Final

from mintmark.core import base64url, jws, strict_json
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import (
    AccessToken,
    Revocation,
    access_token,
    refuse_claim,
    texts_of,
    time_of,
)
from mintmark.core.denylist import Denylist
from mintmark.core.jwk import PublicKey, is_thumbprint
from mintmark.core.policy import Policy as Policy  # noqa: PLC0414 - part of this module's interface
from mintmark.core.policy import Profile
from mintmark.core.refusal import Code
from mintmark.errors import (
    ConfigurationError,
    InsufficientScope,
    InvalidToken,
    MintmarkError,
    VerifierUnavailable,
)
from mintmark.units import Issuer, Kid, NumericDate

NOTHING_PASSES: Final = NumericDate(strict_json.MIN_INTEGER)
"""A ``cutoff`` that every token is issued after."""

_TYPS: Final[Mapping[Profile, frozenset[str | None]]] = MappingProxyType(
    {Profile.RFC9068: frozenset({"at+jwt"}), Profile.JWT: frozenset({"at+jwt", "jwt", None})}
)
_CACHED_HEADERS: Final = 256
_CACHED_HEADER_SIZE: Final = 1024
_NO_SCOPES: Final[frozenset[str]] = frozenset()


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

    It also remembers the headers of tokens that it has verified, for each issuer the key that they led to,
    and the sets that their scopes are: a header is the same bytes for as long as a key signs, and most
    tokens have the scope of another. Only what a valid signature covers is remembered, so no stranger can
    fill that memory, and it is bounded all the same.
    """

    __slots__ = ("algorithms", "by_issuer", "headers", "max_size", "scopes", "typs")

    def __init__(self, trusts: Iterable[Trust], *, max_size: int = jws.MAX_SIZE) -> None:
        """Raises ConfigurationError when two trusts name one issuer."""
        self.by_issuer: dict[str, tuple[Trust, dict[bytes, PublicKey]]] = {}
        for trust in trusts:
            if trust.policy.issuer in self.by_issuer:
                raise ConfigurationError("issuer", "an issuer is configured once")
            self.by_issuer[trust.policy.issuer] = (trust, {})
        self.max_size = max_size
        # What some issuer allows: all that can be said before the payload names the issuer (step 4).
        policies = [trust.policy for trust, _ in self.by_issuer.values()]
        self.algorithms = frozenset().union(*(policy.algorithms for policy in policies))
        self.typs: frozenset[str | None] = frozenset().union(*(_TYPS[policy.profile] for policy in policies))
        self.headers: dict[bytes, jws.Header] = {}
        self.scopes: dict[str, frozenset[str]] = {}

    def trust(self, issuer: Issuer) -> Trust | None:
        """What is believed about ``issuer``; None if it is not trusted."""
        found = self.by_issuer.get(issuer)
        return None if found is None else found[0]

    def remember(
        self, part: bytes, header: jws.Header, key: PublicKey, proven: dict[bytes, PublicKey]
    ) -> None:
        """Note that a token with this header, still encoded, verified under ``key``."""
        if len(part) > _CACHED_HEADER_SIZE:
            return
        for memory in (self.headers, proven):
            if len(memory) >= _CACHED_HEADERS:
                memory.clear()
        self.headers[part] = header
        proven[part] = key

    def replace(self, trust: Trust) -> "Trusted":
        """The same, but for what is believed about ``trust``'s issuer."""
        others = (known for known, _ in self.by_issuer.values() if known.policy.issuer != trust.policy.issuer)
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
    # 1
    message, header_part, payload_part, signature_part = jws.split(raw, trusted.max_size)
    # 2 to 4; a header that is remembered has passed them.
    header = trusted.headers.get(header_part)
    header_bytes = jws.decode(header_part) if header is None else b""
    try:
        payload, signature = base64url.decode_both(payload_part, signature_part)
    except base64url.NotBase64url:
        raise InvalidToken(Code.NOT_BASE64URL, "a part of the token is not base64url") from None
    if header is None:
        header = jws.parse_header(header_bytes)
        _check_header(header, trusted.algorithms, trusted.typs)
    kid = header.kid
    if kid is None:
        raise InvalidToken(Code.BAD_KID, "kid is missing")
    # 5
    try:
        claims = strict_json.parse(payload)
    except strict_json.NotStrictJson as error:
        raise InvalidToken(Code.BAD_PAYLOAD, f"the payload is refused: {error}") from None
    if type(claims) is not dict:
        raise InvalidToken(Code.BAD_PAYLOAD, "the payload is no object")
    # 6
    iss = claims.get("iss")
    if type(iss) is not str:
        refuse_claim(claims, "iss")
    found = trusted.by_issuer.get(iss)
    if found is None:
        raise InvalidToken(Code.UNKNOWN_ISSUER, "iss is no configured issuer")
    trust, proven = found
    policy = trust.policy
    key = proven.get(header_part)
    if key is None:
        # 4 again, now that the issuer is known: what another issuer may do this one may not.
        _check_header(header, policy.algorithms, _TYPS[policy.profile])
    # 7
    aud = claims.get(policy.audience_claim)
    if type(aud) is str:
        good = aud in policy.audiences
        aud = (aud,)
    else:
        aud = texts_of(claims, policy.audience_claim)
        good = not policy.audiences.isdisjoint(aud)
    if not good:
        raise InvalidToken(Code.WRONG_AUDIENCE, "aud names no audience of this service")
    exp = claims.get("exp")
    if type(exp) is not int:
        refuse_claim(claims, "exp")
    check_exp(exp, policy, now)
    if "nbf" in claims and time_of(claims, "nbf") > now + policy.leeway:
        raise InvalidToken(Code.NOT_YET_VALID, "nbf has not come")
    # 8 and 9; an absent key waits until 10 and 11 have passed: what is wrong in itself is worth no fetch.
    if key is not None:
        jws.verify(key, message, signature)
    else:
        key = _key(kid, header, trust)
        if key is not None:
            jws.verify(key, message, signature)
            trusted.remember(header_part, header, key, proven)
    # 10 and 11
    memory = trusted.scopes if key is not None else {}
    token = access_token(claims, policy, now, aud, exp, kid, trust.revocation, memory)
    if key is None:
        raise KeyAbsent(policy.issuer, kid, header.alg, token.iat)
    # 12 and 13
    admit(token, trust, scopes, fresh_revocation)
    return token


def admit(
    token: AccessToken,
    trust: Trust,
    scopes: frozenset[str] = _NO_SCOPES,
    fresh_revocation: bool = False,
) -> None:
    """Steps 12 and 13 for a token whose signature is known to be good: what can change while it lives.

    Whoever keeps verified tokens calls this and :func:`check_exp` at each use. Raises InvalidToken
    (``revoked``), VerifierUnavailable (``revocation_stale``), InsufficientScope.
    """
    denylist = trust.denylist
    if denylist is not None:
        kind = denylist.covers(token.rid, token.jti, token.kid, token.client_id, token.iat)
        if kind is not None:
            raise InvalidToken(Code.REVOKED, f"revoked by {kind.value}")
    if trust.cutoff is not None and token.iat > trust.cutoff:
        raise VerifierUnavailable(Code.REVOCATION_STALE, "the token is newer than the revocations known here")
    if fresh_revocation and trust.revocation is not Revocation.CHECKED:
        raise VerifierUnavailable(Code.REVOCATION_STALE, "revocations are not up to date")
    if scopes and not scopes <= token.scopes:
        raise InsufficientScope(tuple(sorted(scopes - token.scopes)))


def check_exp(exp: int, policy: Policy, now: NumericDate) -> None:
    """Raise InvalidToken (``expired``) when ``now`` >= ``exp`` + ``exp_leeway`` (RFC 7519 s.4.1.4)."""
    if now >= exp + policy.exp_leeway:
        raise InvalidToken(Code.EXPIRED, "exp has passed")


def _check_header(header: jws.Header, algorithms: frozenset[Algorithm], typs: frozenset[str | None]) -> None:
    if header.alg not in algorithms:
        raise InvalidToken(Code.ALG_NOT_ALLOWED, "alg is not allowed for this issuer")
    if header.typ not in typs:
        raise InvalidToken(Code.TYP_NOT_ALLOWED, "typ is not an access token's")


def _key(kid: Kid, header: jws.Header, trust: Trust) -> PublicKey | None:
    """The issuer's key ``kid``, for the algorithm that ``header`` names (step 8); None if it is not known."""
    key = trust.keys.get(kid)
    if key is None:
        if trust.policy.thumbprint_kids and not is_thumbprint(kid):
            raise InvalidToken(Code.UNKNOWN_KID, "kid has not the shape of this issuer's keys")
    elif key.alg is not header.alg:
        raise InvalidToken(Code.ALG_MISMATCH, "the key is for another algorithm than the header names")
    return key
