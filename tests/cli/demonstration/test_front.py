"""The front passes bytes on, to whoever is ready, and fails in just the way that it was told to."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx2
import pytest
import uvloop

from mintmark.cli.demonstration.front import Backend, Fault, Front, running_front
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing import FakeClock

LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="uvloop"),
]
PATIENCE = 60


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    return request.param


@dataclass
class Echo:
    """A server that sends back what it gets, in capitals, and answers probes."""

    ready: bool = True
    hangs: bool = False
    received: bytes = b""
    ended: int = 0
    failed: int = 0
    paths: set[str] = field(default_factory=set)
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    port: int = 0

    async def start(self) -> "Echo":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in tuple(self.writers):
            writer.transport.abort()
        await self.server.wait_closed()

    @property
    def backend(self) -> Backend:
        return Backend("127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        is_probe = False
        try:
            while chunk := await reader.read(65536):
                is_probe = is_probe or chunk.startswith(b"GET ")
                await until(lambda: not self.hangs)
                if writer.is_closing():
                    break
                if is_probe:
                    self.paths.add(chunk.split()[1].decode())
                    status = b"200 OK" if self.ready else b"503 Service Unavailable"
                    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.received += chunk
                writer.write(chunk.upper())
                await writer.drain()
            self.ended += not is_probe
        except OSError:
            self.failed += not is_probe
        finally:
            self.writers.discard(writer)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def echoes(count: int) -> AsyncIterator[list[Echo]]:
    servers = [await Echo().start() for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            await server.stop()


@contextlib.asynccontextmanager
async def fronted(*servers: Echo, **options) -> AsyncIterator[Front]:
    front = Front([server.backend for server in servers], **{"clock": SYSTEM_CLOCK, **options})
    await front.open()
    try:
        yield front
    finally:
        await front.close()


class Client:
    """One connection to the front."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def says(self, text: bytes) -> bytes:
        """What comes back for ``text``, of the same length."""
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readexactly(len(text)), PATIENCE)

    async def end(self) -> bytes:
        """Everything until the other side ends; raises OSError when it is reset."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)


@contextlib.asynccontextmanager
async def connected(front: Front) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", front.port))
    try:
        yield client
    finally:
        client.writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - on another thread, or in the kernel
            await asyncio.sleep(0.01)


async def is_reset(waiting: Awaitable[bytes]) -> bool:
    try:
        await waiting
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return isinstance(error, ConnectionResetError)
    return False


# --- bytes ---------------------------------------------------------------------------------------


async def test_it_passes_megabytes_both_ways_at_once():
    """What a client sends and what it gets is whole and in order, many buffers of it, and the end too."""
    text = bytes(range(97, 123)) * 200_000
    async with echoes(1) as (echo,), fronted(echo, ready_path=None) as front, connected(front) as client:
        client.writer.write(text)
        client.writer.write_eof()
        assert await client.end() == text.upper()
        assert echo.received == text
        await until(lambda: front.connections(echo.backend) == 0)


async def test_it_reads_no_faster_than_the_other_side_takes():
    """A backend that does not read holds its client back; the front keeps no more than some buffers."""
    async with echoes(1) as (echo,), fronted(echo, ready_path=None) as front, connected(front) as client:
        echo.hangs = True
        client.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 65536
        )
        client.writer.write(b"x" * 64_000_000)
        draining = asyncio.create_task(client.writer.drain())
        await until(lambda: front.connections(echo.backend) == 1)
        left: list[int] = []
        # What no buffer on the way takes stays with the client, and stays the same.
        while len(left) < 50 or left[-1] != left[-50]:
            left.append(client.writer.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert left[-1] > 32_000_000
        assert not draining.done()
        draining.cancel()
        echo.hangs = False


async def test_reset_passes_through():
    """A client that resets its connection ends the one behind it, and so the other way round."""
    async with echoes(1) as (echo,), fronted(echo, ready_path=None) as front:
        async with connected(front) as client:
            assert await client.says(b"a") == b"A"
        await until(lambda: front.connections(echo.backend) == 0)
        async with connected(front) as client:
            assert await client.says(b"b") == b"B"
            await echo.stop()
            with contextlib.suppress(ConnectionResetError):
                assert await client.end() == b""
        await until(lambda: front.connections(echo.backend) == 0)


# --- who gets a connection -----------------------------------------------------------------------


async def test_ready_backends_take_turns():
    """Of three, one is not ready: the others get every other connection each."""
    async with echoes(3) as (one, two, three):
        two.ready = False
        async with fronted(one, two, three, ready_path="/up") as front:
            await until(lambda: front.is_ready(one.backend) and front.is_ready(three.backend))
            for _ in range(6):
                async with connected(front) as client:
                    assert await client.says(b"a") == b"A"
            assert [front.passed(echo.backend) for echo in (one, two, three)] == [3, 0, 3]
            assert one.paths == {"/up"}
            two.ready, three.ready = True, False
            await until(lambda: front.is_ready(two.backend) and not front.is_ready(three.backend))
            for _ in range(2):
                async with connected(front) as client:
                    await client.says(b"a")
            assert [front.passed(echo.backend) for echo in (one, two, three)] == [4, 1, 3]


async def test_connection_that_is_refused_goes_to_another():
    """A backend that is gone, and was ready a moment ago, costs its next client nothing."""
    async with echoes(2) as (one, two), fronted(one, two, ready_path=None) as front:
        await one.stop()
        for _ in range(4):
            async with connected(front) as client:
                assert await client.says(b"a") == b"A"
        assert front.passed(two.backend) == 4
        await one.start()


async def test_where_none_is_ready_one_that_lives_answers():
    """The node's own 503 reaches the client; with none alive the connection is closed."""
    async with echoes(2) as (one, two):
        one.ready = False
        async with fronted(one, two) as front:
            await two.stop()
            await until(lambda: not front.is_ready(two.backend))
            async with connected(front) as client:
                client.writer.write(b"GET /v1/sessions HTTP/1.1\r\n\r\n")
                assert (await client.reader.readline()).startswith(b"HTTP/1.1 503")
            await one.stop()
            async with connected(front) as client:
                assert await client.end() == b""
            await one.start()
            await two.start()


async def test_backend_that_hangs_delays_no_other():
    """While one backend answers nothing it is soon out of turn, and its clients are sent elsewhere."""
    async with echoes(2) as (one, two), fronted(one, two) as front:
        await until(lambda: front.is_ready(one.backend) and front.is_ready(two.backend))
        async with connected(front) as first, connected(front) as second:
            await first.says(b"a")
            await second.says(b"a")
            one.hangs = True
            waiting = [asyncio.create_task(client.says(b"b")) for client in (first, second)]
            await until(lambda: not front.is_ready(one.backend))
            assert front.is_ready(two.backend)
            for _ in range(4):
                async with connected(front) as client:
                    assert await client.says(b"c") == b"C"
            outcomes = await asyncio.gather(*(is_reset(task) for task in waiting))
            assert sorted(outcomes) == [False, True]
        one.hangs = False
        await until(lambda: front.is_ready(one.backend))


async def test_backend_that_answers_keeps_its_connections():
    """One that says that it is not ready gets no new connection, and serves those that it has."""
    async with echoes(1) as (echo,), fronted(echo) as front:
        await until(lambda: front.is_ready(echo.backend))
        async with connected(front) as client:
            await client.says(b"a")
            echo.ready = False
            await until(lambda: not front.is_ready(echo.backend))
            for _ in range(50):
                assert await client.says(b"b") == b"B"
                await asyncio.sleep(0.02)


# --- faults --------------------------------------------------------------------------------------


async def test_black_hole_holds_everything_and_closes_nothing():
    """Neither words nor ends pass, in either direction; what was held arrives when it ends."""
    async with echoes(1) as (echo,), fronted(echo) as front:
        await until(lambda: front.is_ready(echo.backend))
        async with connected(front) as client, connected(front) as leaving:
            await client.says(b"a")
            await leaving.says(b"a")
            front.set(Fault.BLACKHOLE)
            client.writer.write(b"late")
            leaving.writer.transport.abort()
            async with connected(front) as new:
                new.writer.write(b"new")
                answer = asyncio.create_task(client.reader.readexactly(4))
                await until(lambda: front.connections(echo.backend) == 3)
                for _ in range(30):
                    await asyncio.sleep(0.01)
                    assert not answer.done()
                assert (echo.received, echo.ended + echo.failed) == (b"aa", 0)
                assert front.is_ready(echo.backend)
                front.set()
                assert await answer == b"LATE"
                assert await asyncio.wait_for(new.reader.readexactly(3), PATIENCE) == b"NEW"
        await until(lambda: echo.ended + echo.failed == 3)


async def test_reset_meets_open_and_new_connections():
    """Both see a reset and no ordinary end; afterwards connections work as before."""
    async with echoes(1) as (echo,), fronted(echo) as front:
        await until(lambda: front.is_ready(echo.backend))
        async with connected(front) as client:
            await client.says(b"a")
            front.set(Fault.RESET)
            assert await is_reset(client.end())
            # The reset may come before the connection is announced.
            with contextlib.suppress(ConnectionResetError):
                async with connected(front) as new:
                    assert await is_reset(new.end())
        front.set()
        async with connected(front) as client:
            assert await client.says(b"b") == b"B"
        assert echo.received == b"ab"


async def test_half_open_line_loses_answers_alone():
    """What is sent arrives; its answer vanishes for good, so the connection is reset afterwards."""
    async with echoes(1) as (echo,), fronted(echo) as front:
        await until(lambda: front.is_ready(echo.backend))
        async with connected(front) as client, connected(front) as idle:
            await client.says(b"a")
            await idle.says(b"a")
            front.set(Fault.HALF_OPEN)
            client.writer.write(b"commit")
            await until(lambda: echo.received == b"aacommit")
            answer = asyncio.create_task(client.end())
            for _ in range(30):
                await asyncio.sleep(0.01)
                assert not answer.done()
            front.set()
            assert await is_reset(answer)
            assert await idle.says(b"b") == b"B"


async def test_cut_after_a_pattern_lets_the_pattern_through():
    """The backend gets all that was sent and an ordinary end, the client a reset; the next is not cut."""
    async with echoes(1) as (echo,), fronted(echo, ready_path=None) as front:
        async with connected(front) as client, connected(front) as other:
            await client.says(b"begin; ")
            await other.says(b"x")
            front.reset_after(None, b"COMMIT")
            # The pattern may come in two pieces.
            assert await client.says(b"COM") == b"COM"
            client.writer.write(b"MIT;")
            assert await is_reset(client.end())
            await until(lambda: echo.ended == 1)
            assert await other.says(b"COMMIT") == b"COMMIT"
        assert echo.received == b"begin; xCOMMIT;COMMIT"
        assert echo.failed == 0


async def test_delay_holds_what_goes_to_the_backend():
    """Nothing reaches the backend before the delay is over; answers come back without one."""
    clock = FakeClock()
    async with echoes(1) as (echo,), fronted(echo, ready_path=None, clock=clock) as front:
        front.set(delay=7)
        async with connected(front) as client:
            client.writer.write(b"slow")
            await clock.armed(within=7, beyond=6)
            assert echo.received == b""
            await clock.pass_time(7)
            assert await asyncio.wait_for(client.reader.readexactly(4), PATIENCE) == b"SLOW"


async def test_fault_of_one_backend_takes_it_out_of_turn():
    """Its probes meet the fault, its connections are cut, and the other backend serves everybody."""
    async with echoes(2) as (one, two), fronted(one, two) as front:
        await until(lambda: front.is_ready(one.backend) and front.is_ready(two.backend))
        async with connected(front) as first, connected(front) as second:
            await first.says(b"a")
            await second.says(b"a")
            front.set(Fault.BLACKHOLE, backend=one.backend)
            await until(lambda: front.connections(one.backend) == 0)
            assert not front.is_ready(one.backend)
            assert front.connections(two.backend) == 1
            async with connected(front) as client:
                assert await client.says(b"b") == b"B"
        front.set(backend=one.backend)
        await until(lambda: front.is_ready(one.backend))


# --- its life ------------------------------------------------------------------------------------


async def test_close_leaves_nothing_open():
    """Connections are reset, also those in a black hole; the port is free, and no task is left."""
    before = asyncio.all_tasks()
    async with echoes(2) as (one, two):
        front = Front([one.backend, two.backend], clock=SYSTEM_CLOCK)
        await front.open()
        async with connected(front) as client, connected(front) as held:
            await client.says(b"a")
            front.set(Fault.BLACKHOLE)
            held.writer.write(b"b")
            await front.close()
            assert await is_reset(client.end())
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", front.port)
        again = Front([one.backend], port=front.port, clock=SYSTEM_CLOCK)
        await again.open()
        await again.close()
    # What is left is the timer of a deadline that was not needed, and ends by itself.
    await until(lambda: not asyncio.all_tasks() - before)


async def test_front_on_a_thread_obeys_at_once():
    """A fault holds when `set` returns, whatever thread it was called on: it returns no earlier."""
    async with echoes(1) as (echo,):
        with running_front([echo.backend], ready_path=None) as front:
            for _ in range(20):
                async with connected(front) as client:
                    await client.says(b"a")
                    await asyncio.to_thread(front.set, Fault.RESET)
                    assert await is_reset(client.end())
                    await asyncio.to_thread(front.set)
            assert front._loop is not None
            busy = threading.Event()
            front._loop.call_soon_threadsafe(busy.wait)
            setting = threading.Thread(target=front.set)
            setting.start()
            setting.join(0.2)
            assert setting.is_alive()
            busy.set()
            await asyncio.to_thread(setting.join)
            with pytest.raises(OSError, match="in use"), running_front([echo.backend], port=front.port):
                pass


async def test_http_goes_through():
    """An ordinary HTTP client with kept connections sees its server behind the front."""
    async with echoes(1) as (echo,), fronted(echo) as front:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", trust_env=False) as http:
            for _ in range(5):
                assert (await http.get("/x")).status_code == 200
        assert front.passed(echo.backend) == 1
