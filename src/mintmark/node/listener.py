"""Listening sockets: the public one, which every worker inherits, and the one for other nodes."""

import errno
import socket
from typing import Final
from urllib.parse import urlsplit

from mintmark.errors import ConfigurationError
from mintmark.server.setting import OFF, Address
from mintmark.server.settings import Settings

_BACKLOG: Final = 2048
_POSTGRESQL: Final = 5432
_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_REASONS: Final = {
    errno.EADDRINUSE: "is taken: another node or program listens there",
    errno.EACCES: "may not be used without more privileges; ports below 1024 need them",
    errno.EADDRNOTAVAIL: "is no address of this machine",
}


def listen(address: Address, *, setting: str = "listen") -> socket.socket:
    """A listening TCP socket; raises ConfigurationError for ``setting`` with the reason."""
    shown = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be used: {error.strerror or error}")
        raise ConfigurationError(setting, f"{shown} {reason}") from None
    sock.setblocking(False)
    return sock


def own_url(sock: socket.socket) -> str:
    """Where this machine itself reaches the socket."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen_for_nodes(settings: Settings) -> tuple[socket.socket, Address] | None:
    """The cluster listener's socket and the address that other nodes are told; None where there is none.

    Raises ConfigurationError where ``cluster_listen`` names a place that cannot be had.
    """
    if isinstance(settings.cluster_listen, Address):
        sock = listen(settings.cluster_listen, setting="cluster_listen")
    elif settings.cluster_listen == OFF:
        return None
    else:
        sock = listen(Address(_host_towards(settings.store), 0), setting="cluster_listen")
    if isinstance(settings.cluster_address, Address):
        return sock, settings.cluster_address
    host, port = sock.getsockname()[:2]
    reachable = _host_towards(settings.store) if host in _ANYWHERE else host
    return sock, Address(reachable, port)


def _host_towards(store: str) -> str:
    """The address of this machine by which it reaches ``store``; of loopback where that is on it."""
    parts = urlsplit(store)
    if not parts.hostname:
        return "127.0.0.1"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            parts.hostname, parts.port or _POSTGRESQL, type=socket.SOCK_DGRAM
        )[0]
        # Connecting a datagram socket sends nothing; it chooses the route, and so the address.
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
