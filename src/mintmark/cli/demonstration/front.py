"""A small TCP front: a load balancer before the nodes of a demo, and a line that can be made to fail.

It passes bytes and knows nothing of what they say. A new connection goes to the next backend in turn that
is ready; each backend is asked for that by a task of its own, so one that hangs delays nobody's answer.
With ``ready_path=None`` it is a plain proxy, before a PostgreSQL server for example.

For a demo and for tests, where every fault must be had on demand; it is no part of the product, and a
cluster that serves users stands behind a load balancer that was made for them.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from mintmark.cli.demonstration.end import End
from mintmark.cli.demonstration.readiness import Answer, ask
from mintmark.errors import MintmarkError, Unavailable
from mintmark.ports.clock import Clock
from mintmark.server.deadline import Deadline
from mintmark.system import SYSTEM_CLOCK

_CHUNK: Final = 64 * 1024
"""Bytes read at once. A connection holds at most a few of these, whatever its ends send."""
_PROBE_EVERY: Final = 0.15
_PROBE_PATIENCE: Final = 1.0
_SILENT_PROBES: Final = 3
"""Probes without any answer, one after the other, after which a backend's connections are cut."""
_CONNECT_PATIENCE: Final = 2.0


class Fault(StrEnum):
    """What a line does with the bytes on it."""

    PASS = "pass"  # noqa: S105 - no password
    BLACKHOLE = "blackhole"
    """Connections are accepted, nothing moves in either direction, nothing is closed; what was held moves
    on when the fault ends."""
    RESET = "reset"
    """Open connections are reset, new ones are accepted and reset."""
    HALF_OPEN = "half_open"
    """What a client sends arrives, what it should be answered vanishes: a commit whose answer is lost. When
    the fault ends, a connection that lost bytes is reset, since no TCP goes on with a gap."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a connection may go."""

    host: str
    port: int


@dataclass(slots=True)
class _Line:
    """The way to one backend, as it is now; ``changed`` is set when it has become another one."""

    fault: Fault = Fault.PASS
    delay: float = 0.0
    lies_behind: bool = False
    """The fault lies between the front and this backend, so that its probes meet it too."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Front:
    """A listener on loopback that passes connections on to ``backends``.

    ``ready_path`` is asked for over HTTP, about every 150 ms; 200 is ready. When none is ready, or none of
    these accepts, new connections go to any that does, whose own 503 says more than a closed connection;
    when none accepts, they are closed. A connection stays with its backend, as with every load balancer
    of this kind, unless the backend leaves three probes in a row without an answer: then it is reset, so
    that a client with a connection that it kept goes elsewhere. One that answers, if only that it is not
    ready, keeps its connections. With ``ready_path=None`` all backends count as ready and nothing is cut.

    ``set``, ``reset_after`` and what only tells may be called on any thread.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        port: int = 0,
        ready_path: str | None = "/readyz",
        clock: Clock,
    ) -> None:
        self.backends: Final = tuple(backends)
        self.port = port
        """Where it listens; known once it is open, if it was 0."""
        self._ready_path = ready_path
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._lines = {backend: _Line() for backend in self.backends}
        self._patterns: dict[Backend, bytes] = {}
        self._answers = dict.fromkeys(self.backends, Answer.NONE if ready_path else Answer.READY)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passed: Counter[Backend] = Counter()
        self._turn = 0
        self._connecting = Deadline(clock, _CONNECT_PATIENCE, _too_late)

    async def open(self) -> None:
        """Listen; raises OSError for a port that is taken."""
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_CHUNK)
        self.port = int(self._server.sockets[0].getsockname()[1])
        if self._ready_path is not None:
            for backend in self.backends:
                self._run(self._watch(backend, self._ready_path))

    async def close(self) -> None:
        """Stop listening and reset what is open; nothing of it is left when this returns."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in tuple(self._links):
            link.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if server is not None:
            await server.wait_closed()

    def set(self, fault: Fault = Fault.PASS, *, delay: float = 0.0, backend: Backend | None = None) -> None:
        """Have the line to one backend, or to all, do this from now on, to open and to new connections.

        ``delay`` is in seconds, for every chunk on its way to the backend. A fault for one backend lies
        behind the front: its probes meet it too, so it stops being ready and its connections are cut after
        a while. A fault for all lies before the front: readiness knows nothing of it.
        It holds when this returns.
        """
        self._apply(lambda: self._set(fault, delay, backend))

    def reset_after(self, backend: Backend | None, pattern: bytes) -> None:
        """Cut the first connection on which the client sends ``pattern`` from now on, once it was passed on.

        The client gets a reset, the backend an ordinary end after all that was sent: it does what it was
        asked to, and nobody hears of it. Once for each backend, or for the one that is named.
        """

        def arm() -> None:
            self._patterns.update(dict.fromkeys(self._meant(backend), pattern))

        self._apply(arm)

    def is_ready(self, backend: Backend) -> bool:
        """Whether new connections go to it, as its last probe said."""
        return self._answers[backend] is Answer.READY

    def connections(self, backend: Backend) -> int:
        """How many connections to it are open now."""
        return sum(1 for link in tuple(self._links) if link.backend == backend)

    def passed(self, backend: Backend) -> int:
        """How many connections to it were opened so far."""
        return self._passed[backend]

    # --- faults --------------------------------------------------------------------------------------

    def _apply(self, change: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None or loop is _running_loop():
            change()
            return
        applied = concurrent.futures.Future[None]()

        def apply() -> None:
            change()
            applied.set_result(None)

        loop.call_soon_threadsafe(apply)
        applied.result()

    def _meant(self, backend: Backend | None) -> tuple[Backend, ...]:
        return self.backends if backend is None else (backend,)

    def _set(self, fault: Fault, delay: float, backend: Backend | None) -> None:
        for each in self._meant(backend):
            before = self._lines[each]
            self._lines[each] = _Line(fault, delay, lies_behind=backend is not None)
            before.changed.set()
            for link in tuple(self._links):
                if link.backend == each and (
                    fault is Fault.RESET or (link.lost and fault is not Fault.HALF_OPEN)
                ):
                    link.reset()

    # --- readiness -----------------------------------------------------------------------------------

    async def _watch(self, backend: Backend, path: str) -> None:
        deadline = Deadline(self._clock, _PROBE_PATIENCE, _too_late)
        silent = 0
        while True:
            answer = Answer.NONE
            with contextlib.suppress(OSError, Unavailable):
                answer = await deadline.hold(self._probe(backend, path))
            self._answers[backend] = answer
            silent = silent + 1 if answer is Answer.NONE else 0
            if silent >= _SILENT_PROBES:
                for link in tuple(self._links):
                    if link.backend == backend:
                        link.reset()
            await self._clock.sleep(_PROBE_EVERY)

    async def _probe(self, backend: Backend, path: str) -> Answer:
        line = self._lines[backend]
        if line.lies_behind:
            match line.fault:
                case Fault.RESET:
                    return Answer.NONE
                case Fault.BLACKHOLE | Fault.HALF_OPEN:
                    # No answer would come: for as long as that lasts, or until the deadline.
                    await line.changed.wait()
                    return Answer.NONE
            if line.delay:
                await self._clock.sleep(line.delay)
        return await ask(backend.host, backend.port, path)

    # --- connections ---------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = End(reader, writer)
        if self._server is None:
            # Accepted by the loop before it heard that the listener was closed.
            client.reset()
            return
        self._run(self._pass_on(client))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, client: End) -> None:
        """One connection, from its first byte to its end."""
        try:
            for backend in self._candidates():
                link = _Link(self, backend, client)
                self._links.add(link)
                try:
                    if await link.run():
                        return
                finally:
                    self._links.discard(link)
        finally:
            client.drop()

    def _candidates(self) -> list[Backend]:
        """The ready ones from the next in turn on; should none of them accept, the others."""
        self._turn += 1
        found: list[Backend] = []
        for answer in Answer:
            these = [backend for backend in self.backends if self._answers[backend] is answer]
            start = self._turn % len(these) if these else 0
            found += these[start:] + these[:start]
        return found

    async def line(self, backend: Backend) -> _Line:
        """The line to ``backend``, as soon as anything moves on it."""
        while (line := self._lines[backend]).fault is Fault.BLACKHOLE:
            await line.changed.wait()
        return line

    async def connect(self, backend: Backend) -> End:
        """A new connection to ``backend``; raises OSError or Unavailable."""
        opening = asyncio.open_connection(backend.host, backend.port, limit=_CHUNK)
        end = End(*await self._connecting.hold(opening))
        self._passed[backend] += 1
        return end

    async def delay(self, span: float) -> None:
        """Wait that long."""
        await self._clock.sleep(span)

    def is_cut_at(self, backend: Backend, sent: bytes) -> bool:
        """Whether ``sent`` holds what was given to ``reset_after``, which counts once."""
        found = backend in self._patterns and self._patterns[backend] in sent
        if found:
            del self._patterns[backend]
        return found

    def tail(self, backend: Backend, sent: bytes) -> bytes:
        """The end of ``sent`` in which a pattern may have begun."""
        kept = len(self._patterns.get(backend, b"")) - 1
        return sent[-kept:] if kept > 0 else b""


class _Link:
    """A client's connection and the one to a backend that goes on from it."""

    def __init__(self, front: Front, backend: Backend, client: End) -> None:
        self.backend: Final = backend
        self.lost = False
        """Bytes for the client vanished, so it cannot go on once others arrive."""
        self._front = front
        self._client = client
        self._upstream: End | None = None
        self._client_ended = asyncio.Event()
        self._is_cut = False
        self._work: asyncio.Task[bool] | None = None

    async def run(self) -> bool:
        """Pass bytes on until both sides are done; False if the backend did not accept."""
        self._work = asyncio.create_task(self._join())
        try:
            await asyncio.wait({self._work})
            return self._work.cancelled() or self._work.result()
        finally:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            if self._upstream is not None:
                self._upstream.drop()

    def reset(self) -> None:
        """End both sides with a reset."""
        self._client.reset()
        if self._upstream is not None:
            self._upstream.reset()
        if self._work is not None:
            self._work.cancel()

    async def _join(self) -> bool:
        if (await self._front.line(self.backend)).fault is Fault.RESET:
            self._client.reset()
            return True
        try:
            self._upstream = upstream = await self._front.connect(self.backend)
        except (OSError, Unavailable):
            return False
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(upstream))
                both.create_task(self._return(upstream))
            await upstream.close()
            if not self._is_cut:
                await self._client.close()
        # One side was reset, and so is the other: but nothing passes a black hole.
        except* OSError:
            await self._front.line(self.backend)
            self._client.reset()
            upstream.reset()
        return True

    async def _forward(self, upstream: End) -> None:
        """From the client to the backend."""
        tail = b""
        while chunk := await self._client.reader.read(_CHUNK):
            if span := (await self._front.line(self.backend)).delay:
                await self._front.delay(span)
                await self._front.line(self.backend)
            await upstream.send(chunk)
            if self._front.is_cut_at(self.backend, tail + chunk):
                self._is_cut = True
                self._client.reset()
                break
            tail = self._front.tail(self.backend, tail + chunk)
        await self._front.line(self.backend)
        self._client_ended.set()
        upstream.send_end()

    async def _return(self, upstream: End) -> None:
        """From the backend to the client."""
        while chunk := await upstream.reader.read(_CHUNK):
            line = await self._front.line(self.backend)
            if line.fault is Fault.HALF_OPEN:
                self.lost = True
            elif not self._is_cut:
                await self._client.send(chunk)
        if (await self._front.line(self.backend)).fault is Fault.HALF_OPEN:
            # Its end would be an answer too.
            self.lost = True
            await self._client_ended.wait()
        elif not self._is_cut:
            self._client.send_end()


_Stop = tuple[asyncio.AbstractEventLoop, asyncio.Event]


@contextlib.contextmanager
def running_front(
    backends: Sequence[Backend],
    *,
    port: int = 0,
    ready_path: str | None = "/readyz",
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[Front]:
    """A front that runs on a thread of its own, so that nothing its user does holds it up.

    Raises OSError for a port that is taken.
    """
    front = Front(backends, port=port, ready_path=ready_path, clock=clock)
    opened = concurrent.futures.Future[_Stop]()
    thread = threading.Thread(target=lambda: asyncio.run(_run(front, opened)), name="mintmark-front")
    thread.start()
    try:
        loop, asked = opened.result()
        try:
            yield front
        finally:
            loop.call_soon_threadsafe(asked.set)
    finally:
        thread.join()


async def _run(front: Front, opened: "concurrent.futures.Future[_Stop]") -> None:
    asked = asyncio.Event()
    try:
        await front.open()
    except OSError as error:
        opened.set_exception(error)
        return
    opened.set_result((asyncio.get_running_loop(), asked))
    try:
        await asked.wait()
    finally:
        await front.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _too_late() -> MintmarkError:
    return Unavailable("no answer in time")
