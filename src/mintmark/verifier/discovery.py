"""Where an issuer's keys and revocations are: its discovery document, and which parts of it to believe.

Whoever can answer for the discovery document could point us to keys of his own, or to a service inside
our network. So the document must name the issuer byte for byte (OpenID Connect Discovery s.4.3), and
what it points to must lie at the issuer's own origin unless the deployer allowed another.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from mintmark.core import strict_json
from mintmark.errors import ConfigurationError
from mintmark.verifier.fetch import FetchFailed

_MAX_URL: Final = 2048
_MAX_SIZE: Final = 256 * 1024
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """The URLs of one issuer; ``feed`` is None where the issuer has no revocation feed."""

    jwks_uri: str
    feed: str | None = None
    stream: str | None = None


def check_issuer(issuer: str) -> None:
    """Raise ConfigurationError unless ``issuer`` can be an issuer (RFC 8414 s.2).

    That is an https URL without query and fragment, or an http one on loopback.
    """
    parts = _split(issuer)
    if parts is None or parts.query or parts.fragment or issuer.endswith(("?", "#")):
        raise ConfigurationError("issuer", "not a URL with scheme and host and without query and fragment")
    if not _is_secure(parts):
        raise ConfigurationError("issuer", "must be https; http is for loopback only")


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine itself."""
    parts = _split(url)
    return parts is not None and parts.hostname in _LOOPBACK


def documents(issuer: str) -> tuple[str, str]:
    """The URLs of the discovery document: OpenID Connect's, then RFC 8414's form of it."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    base = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{base}{path}/.well-known/openid-configuration",
        f"{base}/.well-known/oauth-authorization-server{path}",
    )


def parse(body: bytes, *, issuer: str, origins: AbstractSet[str]) -> Discovery:
    """The URLs in the document ``body``; ``origins`` are allowed beside the issuer's own.

    Raises FetchFailed: ``discovery_malformed``, ``discovery_issuer`` or ``discovery_origin``.
    """
    try:
        document = strict_json.decode(body, max_size=_MAX_SIZE)
    except strict_json.NotStrictJson as error:
        raise FetchFailed("discovery_malformed") from error
    if not isinstance(document, dict) or not isinstance(document.get("jwks_uri"), str):
        raise FetchFailed("discovery_malformed")
    if document.get("issuer") != issuer:
        raise FetchFailed("discovery_issuer")
    urls: dict[str, str | None] = {}
    for name in ("jwks_uri", "mintmark_feed", "mintmark_feed_stream"):
        url = document.get(name)
        if url is not None and not isinstance(url, str):
            raise FetchFailed("discovery_malformed")
        if url is not None:
            _check_url(url, issuer, origins)
        urls[name] = url
    return Discovery(
        jwks_uri=document["jwks_uri"], feed=urls["mintmark_feed"], stream=urls["mintmark_feed_stream"]
    )


def origin(url: str) -> str | None:
    """Scheme, host and port of ``url`` (RFC 6454 s.4) as text, or None where it has no such."""
    parts = _split(url)
    if parts is None:
        return None
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"


def host(url: str) -> str:
    """The host of ``url``, without its port and brackets."""
    return urlsplit(url).hostname or ""


def foreign_host(url: str, issuer: str) -> str | None:
    """The host of ``url`` where it is another than the issuer's, so that its addresses must be looked at."""
    return None if host(url) == host(issuer) else host(url)


async def check_address(url: str, issuer: str) -> None:
    """Raise FetchFailed (``private_address``) where ``url`` leads into our network and the issuer does not.

    The issuer's own host is not looked at: the deployer named it.
    """
    foreign = foreign_host(url, issuer)
    if foreign is not None and await is_public(host(issuer)) and not await is_public(foreign):
        raise FetchFailed("private_address")


async def is_public(name: str) -> bool:
    """Whether every address of ``name`` is on the Internet; raises FetchFailed where it has none.

    The deployer allowed the origin, but its name may be made to point into his own network. The client
    resolves it again, so this stops mistakes and lazy attackers; an allowed origin is trusted for the rest.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchFailed("connect") from error
    return all(is_public_address(str(address[4][0])) for address in found)


def is_public_address(address: str) -> bool:
    """Whether ``address`` is an IP address that anybody on the Internet could reach."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_global
    except ValueError:
        return False


def _check_url(url: str, issuer: str, origins: AbstractSet[str]) -> None:
    parts = _split(url)
    if parts is None or parts.fragment or not _is_secure(parts):
        raise FetchFailed("discovery_malformed")
    theirs = origin(url)
    if theirs != origin(issuer) and theirs not in origins:
        raise FetchFailed("discovery_origin")


def _split(url: str) -> SplitResult | None:
    # urlsplit drops tabs and newlines and reads a backslash unlike a browser: such a URL has two meanings.
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set(" \\"):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or port == 0:
        return None
    return parts


def _is_secure(parts: SplitResult) -> bool:
    return parts.scheme == "https" or parts.hostname in _LOOPBACK
