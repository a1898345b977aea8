"""A plain web server on a folder, as it stands behind a CDN."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class WebServer(http.server.SimpleHTTPRequestHandler):
    """Gives out the files of a folder, as a web server does that knows nothing of us."""

    extensions_map = {"": "application/json"}  # noqa: RUF012 - the name of http.server

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The URL of a plain web server on ``folder``."""
    handler = functools.partial(WebServer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
