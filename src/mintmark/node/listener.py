"""The public listening socket, bound once by the control process and inherited by every worker."""

import errno
import socket
from typing import Final

from mintmark.errors import ConfigurationError
from mintmark.server.setting import Address

_BACKLOG: Final = 2048
_REASONS: Final = {
    errno.EADDRINUSE: "is taken: another node or program listens there",
    errno.EACCES: "may not be used without more privileges; ports below 1024 need them",
    errno.EADDRNOTAVAIL: "is no address of this machine",
}


def listen(address: Address) -> socket.socket:
    """A listening TCP socket; raises ConfigurationError for ``listen`` with the reason."""
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
        raise ConfigurationError("listen", f"{shown} {reason}") from None
    sock.setblocking(False)
    return sock


def own_url(sock: socket.socket) -> str:
    """Where this machine itself reaches the socket."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
