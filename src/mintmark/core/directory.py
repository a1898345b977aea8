"""Users and clients: who may ask for tokens, and for what."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from mintmark.errors import InvalidScope, InvalidTarget
from mintmark.units import ClientId, Issuer, NumericDate, Sub

USER_PREFIX: Final = "usr_"
"""Begins every user's ``sub`` and no ``client_id``: neither can pass for the other (RFC 9700 s.4.15)."""

LOCKED_FOR_GOOD: Final = NumericDate(253_402_300_799)
"""``locked_until`` of a user who is locked until somebody unlocks him: the last second of the year 9999."""

MAX_PASSWORD_BYTES: Final = 1024

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<v6>[0-9a-f:]+)\]|(?P<host>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_ORIGIN: Final = 255
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class User:
    """A person who logs in. ``scopes`` are those that may be granted in the user's name."""

    issuer: Issuer
    sub: Sub
    username: str
    """As :func:`normalize_username` gives it; unique in the issuer."""
    password_hash: str
    scopes: tuple[str, ...]
    created_at: NumericDate
    password_changed_at: NumericDate
    disabled_at: NumericDate | None = None
    locked_until: NumericDate | None = None
    """Until then nothing is minted in the user's name; unlike one who is disabled, he keeps his sessions."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Client:
    """A program that asks for tokens; public where it has no ``secret_hash`` (RFC 6749 s.2.1)."""

    issuer: Issuer
    client_id: ClientId
    name: str
    secret_hash: bytes | None
    """SHA-256 of a secret of 256 random bits, which needs no slow hash."""
    grant_types: tuple[str, ...]
    audiences: tuple[str, ...]
    """What its tokens may be for; the first is the default."""
    scopes: tuple[str, ...]
    first_party: bool
    """Whether it may send a user's password to ``/v1/sessions``."""
    created_at: NumericDate
    rotates_refresh: bool = True
    """Whether a refresh gives another refresh token; FAPI 2.0 s.5.3.2.1 has none of it as a routine."""
    origins: tuple[str, ...] = ()
    """The web origins (RFC 6454 s.6.2) whose pages may keep this client's sessions in a cookie."""
    serves: tuple[str, ...] = ()
    """The audiences that it is the resource server of: it may introspect their tokens (RFC 7662 s.4)."""
    backchannel_logout_uri: str | None = None
    """Where it wants to be told of ended sessions (OIDC Back-Channel Logout 1.0 s.2.2)."""
    not_before: NumericDate = NumericDate(0)
    """Its tokens with an ``iat`` up to here are revoked, so none may be minted; by an event of its own or of
    the whole issuer, whichever is later. The store alone sets it."""


def is_barred(user: User, now: NumericDate) -> bool:
    """Whether nothing may be minted in the user's name at ``now``, the store's time: disabled, or locked."""
    return user.disabled_at is not None or (user.locked_until is not None and now < user.locked_until)


def normalize_username(text: str) -> str:
    """The one form in which a user name is kept and looked up: NFKC, case folded, trimmed.

    Raises ValueError for an empty name, one of over 254 characters, or one with control characters.
    """
    import unicodedata  # noqa: PLC0415 - 1 MB of tables that only servers need

    # Folding can open what was composed, and composing what can be folded: Unicode (definition D146)
    # does both twice, so that the normal form of a name is that name.
    name = unicodedata.normalize("NFD", text).casefold()
    name = unicodedata.normalize("NFKC", name).casefold()
    name = unicodedata.normalize("NFKC", name).strip()
    if not 1 <= len(name) <= 254:
        raise ValueError("a user name has 1 to 254 characters")
    if any(unicodedata.category(character).startswith("C") for character in name):
        raise ValueError("a user name has no control characters")
    return name


def name_sought(text: str) -> str:
    """The normalized name; empty, and so found nowhere, for what cannot be a name."""
    try:
        return normalize_username(text)
    except ValueError:
        return ""


def is_hashable(password: str) -> bool:
    """Whether it can be encoded and is short enough to hash; JSON can spell lone surrogates."""
    try:
        return len(password.encode()) <= MAX_PASSWORD_BYTES
    except UnicodeEncodeError:
        return False


def check_client_id(text: str) -> ClientId:
    """``text`` as a client id; raises ValueError with a sentence where it is none."""
    if text.startswith(USER_PREFIX):
        raise ValueError(f'a client id does not begin with "{USER_PREFIX}": subjects of users do')
    if _CLIENT_ID.fullmatch(text) is None:
        raise ValueError("a client id has 1 to 64 letters, digits, dots, hyphens and underscores")
    return ClientId(text)


def check_origin(text: str) -> str:
    """``text`` as the origin of a page, exactly as browsers send it (RFC 6454 s.6.2).

    Raises ValueError with a sentence where it is none: ``https``, or ``http`` for this machine alone, with a
    host in lower case, without the default port, and with nothing behind it.
    """
    found = _ORIGIN.fullmatch(text) if len(text) <= _MAX_ORIGIN else None
    if found is None:
        raise ValueError(
            'an origin is written as browsers send it, like "https://app.example.com" or '
            '"http://127.0.0.1:5173": scheme, host in lower case and, unless it is the default, a port'
        )
    bracketed, host, port = found["v6"], found["v6"] or found["host"], found["port"]
    address = _address(host)
    if bracketed and (address is None or address.version != 6 or str(address) != host):
        raise ValueError("the origin has no IPv6 address in its shortest form between the brackets")
    # Browsers read a host that ends in a number as an IPv4 address, in many spellings, and send it in one.
    if not bracketed and address is None and host.rpartition(".")[2].isdecimal():
        raise ValueError("the origin has no IPv4 address in its usual form")
    if port is not None and not (1 <= int(port) <= 65_535 and port == str(int(port))):
        raise ValueError("the origin has a port outside 1 to 65535")
    if port is not None and int(port) == {"http": 80, "https": 443}[found["scheme"]]:
        raise ValueError("the origin must leave the default port out, as browsers do")
    is_local = host == "localhost" or (address is not None and address.is_loopback)
    if found["scheme"] == "http" and not is_local:
        raise ValueError("the origin must begin with https://, or with http:// for this machine alone")
    return text


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_scope(text: str) -> tuple[str, ...]:
    """The scopes that a space-separated ``scope`` parameter lists, each once (RFC 6749 s.3.3).

    Raises InvalidScope where a character is none that a scope may have.
    """
    scopes = tuple(dict.fromkeys(part for part in text.split(" ") if part))
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise InvalidScope("scope: a character that no scope may have")
    return scopes


def narrow_scope(requested: tuple[str, ...] | None, *allowed: tuple[str, ...]) -> tuple[str, ...]:
    """``requested``, or everything that all of ``allowed`` have where nothing was requested.

    Raises InvalidScope where more is requested than every one of ``allowed`` has: a request narrows, it
    never widens.
    """
    first, *others = allowed
    granted = tuple(scope for scope in first if all(scope in other for other in others))
    if requested is None:
        return granted
    beyond = [scope for scope in requested if scope not in granted]
    if beyond:
        raise InvalidScope("scope: more than this client may ask for here")
    return requested


def narrow_audience(
    requested: tuple[str, ...] | None, allowed: tuple[str, ...], *, own: str | None = None
) -> tuple[str, ...]:
    """``requested``, or the first of ``allowed``; raises InvalidTarget for any other (RFC 8707 s.2).

    ``own`` is what else may be requested, but alone: nobody who gets such a token as one of several
    audiences should be able to use it there.
    """
    if not requested:
        return allowed[:1]
    if own is not None and set(requested) == {own}:
        return (own,)
    if any(audience not in allowed for audience in requested):
        raise InvalidTarget("audience: this client has no such audience")
    return tuple(dict.fromkeys(requested))
