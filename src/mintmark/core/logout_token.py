"""The logout token: what tells a relying party that a session ended (OIDC Back-Channel Logout 1.0 s.2.4).

It says who, at which client, which session, and nothing more; it lives two minutes and is made anew for each
attempt to deliver it. Its ``typ`` is its own, so that it passes for an access token nowhere, nor does one for
it.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mintmark.core.minting import BACKDATED, ID_BYTES, Minting, random_id
from mintmark.units import ClientId, Issuer, Jti, NumericDate, Rid, Seconds, Sub

LOGOUT_TOKEN_TYP: Final = "logout+jwt"  # noqa: S105 - a media type
"""The header's ``typ`` (s.2.4)."""
EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
"""The one member of ``events`` (s.2.4, RFC 8417 s.2.2)."""
LIFETIME: Final = Seconds(120)
"""What lies between ``iat`` and ``exp`` at the most: what s.4 of the standard recommends."""
RANDOM_BYTES: Final = ID_BYTES
"""How many random bytes :func:`plan` wants: a ``jti`` of 128 bits."""

_MAX_URI: Final = 2048
# RFC 3986 s.2: what a URI is made of. A backslash or a space is something else to every parser.
_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_encode: Final = msgspec.json.Encoder().encode


def plan(
    *,
    iss: Issuer,
    sub: Sub,
    client_id: ClientId,
    rid: Rid,
    now: NumericDate,
    access_ttl: Seconds,
    random: bytes,
) -> Minting:
    """The claims of one logout token, made at ``now``; ``random`` is :data:`RANDOM_BYTES` fresh bytes.

    ``exp`` is no later than an access token's could be, whose life is ``access_ttl``: a key that may sign now
    covers that (K3). There is never a ``nonce``, which would make it an ID token (s.2.4).
    """
    jti = Jti(random_id(random))
    iat = NumericDate(now - BACKDATED)
    exp = NumericDate(min(iat + LIFETIME, now + access_ttl))
    claims = {
        "iss": iss,
        "sub": sub,
        "aud": client_id,
        "iat": iat,
        "exp": exp,
        "jti": jti,
        "events": {EVENT: {}},
        "sid": rid,
    }
    return Minting(_encode(claims), exp, iat, jti)


def check_uri(text: str) -> str:
    """``text`` as the URI of a relying party (s.2.2); raises ValueError with a sentence where it is none.

    An absolute ``https`` URI without a fragment, and without a user name and password in it, which logs and
    proxies would keep; ``http`` for this machine alone.
    """
    if not 1 <= len(text) <= _MAX_URI or _URI.fullmatch(text) is None:
        raise ValueError(f"must be a URI of at most {_MAX_URI} characters")
    if "#" in text:
        raise ValueError("must have no fragment")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URI with a host, and a port that there is") from None
    if "@" in parts.netloc:
        raise ValueError("must have no user name and password in it")
    if not host or port == 0:
        raise ValueError("must be a URI with a host, and a port that there is")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(text)):
        raise ValueError("must begin with https://, or with http:// for this machine alone")
    return text


def is_loopback(uri: str) -> bool:
    """Whether ``uri`` names this machine (RFC 8252 s.8.3, RFC 6761 s.6.3)."""
    host = urlsplit(uri).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(uri: str) -> str:
    """Scheme, host and port of ``uri``, for logs: its path and query may hold a secret of its owner's.

    What is no URI has none.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return ""
    if not parts.netloc:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
