"""A node's HTTP surface on a real port of loopback, for clients that speak TCP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette

from mintmark.http.protocol import bounded_http
from mintmark.ports.clock import Clock


class Server(uvicorn.Server):
    """uvicorn that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


def free_socket() -> socket.socket:
    """A listening socket whose port nobody else has."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


@contextlib.asynccontextmanager
async def served(app: Starlette, sock: socket.socket, *, clock: Clock) -> AsyncIterator[Server]:
    """The server of ``app``; at the end it stops, and cuts what is still open."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=bounded_http(clock),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


class Front:
    """Hands each connection to the node that is chosen when it comes, as a load balancer does."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Of the node that gets what comes from now on."""
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, sock: socket.socket) -> AsyncIterator[None]:
        """Accept connections."""
        server = await asyncio.start_server(self._accept, sock=sock)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        theirs = None
        try:
            there, theirs = await asyncio.open_connection("127.0.0.1", self.port)
            there_to_here = asyncio.create_task(_pump(there, writer))
            here_to_there = asyncio.create_task(_pump(reader, theirs))
            await asyncio.wait({there_to_here, here_to_there}, return_when=asyncio.FIRST_COMPLETED)
            for pump in (there_to_here, here_to_there):
                pump.cancel()
            await asyncio.gather(there_to_here, here_to_there, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, theirs):
                if each is not None:
                    each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
