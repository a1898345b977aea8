"""Where a bus is that has a server of its own, as the setting ``bus`` names it."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

PORTS: Final = {"redis": 6379, "rediss": 6379, "nats": 4222, "tls": 4222}
"""The schemes, each with the port where the URL has none."""

_TLS: Final = frozenset({"rediss", "tls"})
_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey"})
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class BusPlace:
    """A server, how to log in there, and the name under which one cluster's processes find each other."""

    scheme: str
    host: str
    port: int
    channel: str
    """What is published to and subscribed to; clusters that share a server have different ones."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """A file of certificates that are trusted beside the system's."""
    certificate: str | None = None
    key: str | None = None

    @property
    def is_tls(self) -> bool:
        """Whether nothing is said there, least of all a password, before the server has shown who it is."""
        return self.scheme in _TLS

    def __str__(self) -> str:
        """For people; without what is secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme} {host}:{self.port}, {self.channel}"


def bus_place(url: str) -> BusPlace:
    """The place that ``redis://user:password@host:port/name`` names; ValueError, for whoever wrote it, where
    it names none. The reason never repeats the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        user = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("is not a URL: what is special in a user or a password is written %xx") from None
    if parts.scheme not in PORTS:
        raise ValueError(f"must have a scheme of {', '.join(sorted(PORTS))}")
    if parts.netloc.count("@") > 1:
        # What follows the first one would be taken for the server, and shown: the end of a password.
        raise ValueError("is not a URL: an @ in a user or a password is written %40")
    if "," in host:
        raise ValueError("must name one server")
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError(f'must name a server, like "{parts.scheme}://user:password@host:port"')
    if user and not password:
        # Where it is a token, it would be shown in place of a user's name.
        raise ValueError('has a user without a password; a token alone is written ":token@"')
    if parts.fragment:
        raise ValueError("must have no fragment: # is written %23")
    name = parts.path.removeprefix("/") or "0"
    if not _NAME.fullmatch(name):
        raise ValueError("may have one name of letters, digits, - and _ behind the slash: the cluster's")
    if options and (parts.scheme not in _TLS or not options.keys() <= _FILES):
        raise ValueError(
            "may have sslrootcert, sslcert and sslkey after the question mark only, with rediss:// and tls://"
        )
    if any(not path.startswith("/") for path in options.values()):
        raise ValueError("must name files by their absolute paths")
    if "sslkey" in options and "sslcert" not in options:
        raise ValueError("has an sslkey without an sslcert")
    return BusPlace(
        scheme=parts.scheme,
        host=host,
        port=PORTS[parts.scheme] if port is None else port,
        channel=f"mintmark.{name}",
        user=user or None,
        password=password or None,
        ca=options.get("sslrootcert"),
        certificate=options.get("sslcert"),
        key=options.get("sslkey"),
    )
