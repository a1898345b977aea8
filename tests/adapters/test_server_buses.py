"""The buses over Redis and NATS hear what other processes announce, whatever becomes of their server."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.adapters import wakeups
from tests.adapters.wakeups import counting, heard, hears, listening, missed, until
from tests.bus_servers import CHANNEL, ESCAPED, PASSWORD, STRANGER, NatsServer, RedisServer, running

from mintmark.adapters.line import CONNECT, LONGEST, PATIENCE, PAUSE, PROBE
from mintmark.adapters.nats_bus import _Nats
from mintmark.adapters.registry import make_bus
from mintmark.cli.demonstration.front import Fault
from mintmark.cli.demonstration.loopback import free_ports
from mintmark.ports.bus_place import bus_place
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.clock import FakeClock

KINDS: dict[str, type[Any]] = {"redis": RedisServer, "nats": NatsServer}
ENDED = "the server cannot be reached, or ended the connection"

LISTEN = """
import asyncio, sys
from mintmark.adapters.registry import make_bus
from mintmark.system import SYSTEM_CLOCK

async def main():
    bus = make_bus(sys.stdin.readline().strip(), store="", clock=SYSTEM_CLOCK)
    await bus.open()
    subscription = bus.subscribe()
    while not bus.state.is_up:
        await subscription.wait(0.1)
    if sys.argv[1:] == ["announce"]:
        await bus.announce()
        await bus.close()
        return
    print("up", flush=True)
    while True:
        # Not by time: what is printed was heard.
        if await subscription.wait(600):
            print("woken", flush=True)

asyncio.run(main())
"""


@pytest.fixture(params=KINDS)
def server(request):
    """The server of this process, of each kind in turn, which a test must not stop."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(params=KINDS)
def own(request):
    """A server that the test may stop."""
    with running(KINDS[request.param]) as started:
        yield started


def opened(url, clock=None):
    """A bus that goes by a clock of its own: however slow the machine is, it gives nothing up by itself."""
    return wakeups.opened(make_bus(url, store="", clock=clock or FakeClock()))


def fresh():
    """The name of a cluster that nobody else has."""
    return os.urandom(8).hex()


async def process(url, *arguments):
    started: Any = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", LISTEN, *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    started.stdin.write(f"{url}\n".encode())
    return started


async def test_announcement_of_another_process_is_heard(server):
    """BUS-2: a process that waits for minutes hears what another one announces as it ends."""
    url = server.url(fresh())
    async with opened(url) as bus:
        subscription = await listening(bus)
        announcing = await process(url, "announce")
        assert await hears(subscription)
        announcing.stdin.close()
        assert await announcing.wait() == 0


async def test_bus_that_closes_has_announced(server):
    """What is announced right before closing is sent, even where the connection was not there yet."""
    url = server.url(fresh())
    async with opened(url) as peer:
        subscription = await listening(peer)
        async with opened(url) as bus:
            await bus.announce()
        assert await hears(subscription)


async def test_own_announcement_does_not_come_back(server):
    """A process that announced is not woken a second time by the server."""
    clock, url = FakeClock(), server.url(fresh())
    async with opened(url, clock) as bus:
        await listening(bus)
        told = counting(bus)
        async with opened(url, clock) as peer:
            elsewhere = await listening(peer)
            await bus.announce()
            await heard(elsewhere, peer)
            await peer.announce()
            # Once when it connected, and now; an echo would stand between the two.
            await until(lambda: len(told) >= 2, "it was heard", passing=clock)
        # What it closes with is answered behind all that it was told.
        await bus.announce()
        await bus.close()
        assert len(told) == 2


async def test_clusters_of_other_names_are_not_heard(server):
    """Two clusters on one server do not wake each other."""
    mine, others = server.url(fresh()), server.url(fresh())
    clock = FakeClock()
    async with opened(mine, clock) as bus:
        await listening(bus)
        told = counting(bus)
        async with opened(others, clock) as stranger, opened(others, clock) as peer:
            await listening(stranger)
            elsewhere = await listening(peer)
            await stranger.announce()
            await heard(elsewhere, peer)
        await bus.announce()
        await bus.close()
        assert told == []


async def test_flood_of_forged_messages_wakes_once_a_pause(server):
    """F25: however many messages somebody forges, a subscription wakes once at once and once a pause."""
    clock, flood, name = FakeClock(), 5_000, fresh()
    async with opened(server.url(name), clock) as bus:
        subscription = await listening(bus)
        told = counting(bus)
        await asyncio.to_thread(server.publish, b"x", times=flood, channel=f"mintmark.{name}")
        woken = 0

        async def count():
            nonlocal woken
            while await subscription.wait(wakeups.LONG):
                woken += 1

        counter = asyncio.create_task(count())
        await until(lambda: len(told) >= flood, "the flood arrived")
        await until(lambda: woken >= 1, "it woke")
        assert woken == 1
        # Whether a part of it came after that is the network's business; if so it wakes now.
        clock.advance(PAUSE)
        await asyncio.to_thread(server.publish, b"x", channel=f"mintmark.{name}")
        await until(lambda: len(told) > flood, "one more arrived")
        await until(lambda: woken >= 2, "the last one woke", passing=clock)
        assert woken <= 3
        counter.cancel()


@pytest.mark.parametrize(
    "payload",
    [b"", b"\r\n", b"-ERR\r\n+PONG\r\n$-1\r\n", b"MSG x 1 5\r\n", b"\xff\xfe\0" * 100, b"[" * 5_000],
    ids=["empty", "line", "redis", "nats", "bytes", "nested"],
)
async def test_garbage_wakes_and_harms_nothing(server, payload):
    """F25: whatever a message says, it means no more than «read the store»."""
    name = fresh()
    async with opened(server.url(name)) as bus:
        subscription = await listening(bus)
        await asyncio.to_thread(server.publish, payload, channel=f"mintmark.{name}")
        assert await hears(subscription)
        assert bus.state.is_up
        bus._clock.advance(PAUSE)
        await asyncio.to_thread(server.publish, payload, channel=f"mintmark.{name}")
        assert await hears(subscription)
        assert bus.state.is_up


async def test_forged_mark_of_another_process_silences_only_its_echo(redis_server):
    """F25: a message that says it is from the process itself is taken for its echo, and no other is."""
    name = fresh()
    clock = FakeClock()
    async with opened(redis_server.url(name), clock) as bus, opened(redis_server.url(name), clock) as peer:
        await listening(peer)
        subscription = await listening(bus)
        with redis_server.client() as client, client.pubsub() as spy:
            spy.subscribe(f"mintmark.{name}")
            await bus.announce()
            seen = []

            def spied():
                message = spy.get_message()
                if message is not None and message["type"] == "message":
                    seen.append(message["data"])
                return seen

            await until(spied, "its mark was seen")
        await heard(subscription, bus)
        await asyncio.to_thread(redis_server.publish, seen[-1], channel=f"mintmark.{name}")
        await peer.announce()
        await heard(subscription, bus)
        assert bus.state.is_up


@pytest.mark.parametrize("size", [900_000, 48 << 20], ids=["large", "larger than a server passes on"])
async def test_giant_message_costs_at_most_the_connection(server, size):
    """F25: it wakes, or the server refuses it, or ends the connection of who is to get it; then another is
    made, which wakes as well, and announcements are heard again."""
    clock, name = FakeClock(), fresh()
    async with opened(server.url(name), clock) as bus, opened(server.url(name), clock) as peer:
        await listening(peer)
        subscription = await listening(bus)
        with contextlib.suppress(OSError, AssertionError):
            # NATS ends the connection of who sends more than its limit, and nobody else hears of it.
            await asyncio.to_thread(server.publish, b"\0" * size, channel=f"mintmark.{name}")
            await heard(subscription, bus)
        await listening(peer)
        subscription = await listening(bus)
        await listening(peer)
        await peer.announce()
        await heard(subscription, bus, peer)
        assert bus.state.is_up


async def test_message_with_any_headers_is_taken(nats_server):
    """F25: headers that nothing can take apart do not stop the reading of what comes after them."""
    name = fresh()
    async with opened(nats_server.url(name)) as bus:
        subscription = await listening(bus)
        for headers in (b"NATS/1.0", b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"\0\xff", b"x" * 4_000):
            command = b"HPUB mintmark.%s %d %d\r\n%s\r\n" % (
                name.encode(), len(headers), len(headers), headers,
            )  # fmt: skip
            await asyncio.to_thread(nats_server.send, command)
            assert await hears(subscription)
            bus._clock.advance(PAUSE)
        assert bus.state.is_up


async def test_reader_that_stands_still_is_caught_up(server):
    """A process that is stopped while others say more than the server keeps for it is woken when it goes on,
    and hears the next announcement."""
    name = fresh()
    url = server.url(name)
    reader = await process(url)
    try:
        assert await asyncio.wait_for(reader.stdout.readline(), wakeups.PATIENT) == b"up\n"
        os.kill(reader.pid, signal.SIGSTOP)
        for _ in range(60):
            await asyncio.to_thread(server.publish, b"\0" * 900_000, channel=f"mintmark.{name}")
        os.kill(reader.pid, signal.SIGCONT)
        assert await asyncio.wait_for(reader.stdout.readline(), wakeups.PATIENT) == b"woken\n"
        async with opened(url, SYSTEM_CLOCK) as bus:
            await until(lambda: bus.state.is_up, "the other is connected")
            taken = asyncio.create_task(reader.stdout.readline())
            while not taken.done():
                await bus.announce()
                await asyncio.wait({taken}, timeout=0.2)
            assert taken.result() == b"woken\n"
    finally:
        os.kill(reader.pid, signal.SIGKILL)
        await reader.wait()
        reader.stdin.close()


async def test_flushed_redis_loses_nothing(redis_server):
    """F21: a bus keeps nothing in Redis, so that FLUSHALL is not so much as noticed."""
    url = redis_server.url(fresh())
    async with opened(url) as bus, opened(url) as peer:
        subscription = await listening(bus)
        await listening(peer)
        with redis_server.client() as client:
            client.flushall()
        await peer.announce()
        await heard(subscription, bus)
        assert bus.state.is_up
        with redis_server.client() as client:
            assert client.dbsize() == 0


async def test_server_that_was_killed_is_found_again(own):
    """F20: while it is away announcing works here, and is said once it is back; all are woken by both."""
    async with opened(own.url()) as bus, opened(own.url()) as peer:
        here, elsewhere = await listening(bus), await listening(peer)
        await asyncio.to_thread(own.stop)
        assert set(await missed(bus, peer)) <= {ENDED, "nothing listens there"}
        assert await hears(here)
        assert await hears(elsewhere)
        await bus.announce()
        assert await hears(here)
        await asyncio.to_thread(own.start)
        await listening(bus)
        await listening(peer)
        await heard(here, bus)
        await heard(elsewhere, peer)
        await bus.announce()
        await heard(elsewhere, bus, peer)
        assert bus.state.is_up
        assert peer.state.is_up


async def test_announcement_made_while_the_server_is_away_is_sent_later(own):
    """F20: what is announced without a connection is announced by the next one."""
    async with opened(own.url()) as bus:
        await listening(bus)
        await asyncio.to_thread(own.stop)
        await missed(bus)
        await bus.announce()
        await asyncio.to_thread(own.start)
        async with opened(own.url()) as peer:
            elsewhere = await listening(peer)
            await listening(bus)
            await heard(elsewhere, bus, peer)


async def test_server_that_stops_without_a_word_is_noticed(own):
    """F23: a server whose connections stay open but silent counts as lost within five seconds; when it goes
    on, so does the bus, and all are woken."""
    clock = FakeClock()
    async with opened(own.url(), clock) as bus:
        subscription = await listening(bus)
        await clock.armed(within=PROBE, beyond=PROBE - 1)
        own.pause()
        clock.advance(PROBE)
        await clock.armed(within=PATIENCE, beyond=PATIENCE - 0.5)
        assert bus.state.is_up
        clock.advance(PATIENCE)
        assert await missed(bus) == ["the server did not answer in time"]
        assert await hears(subscription)
        # Announcing waits for nobody.
        await bus.announce()
        own.resume()
        await listening(bus)
        assert await hears(subscription)
        assert bus.state.is_up
        # The connection that was given up is gone from the server too.
        await until(lambda: own.connections() == 1, "one connection is left")
    assert PROBE + PATIENCE <= 5


async def test_cut_off_process_misses_its_server(server, line_to):
    """F22: behind a network that swallows everything it is known within five seconds, others go on, and what
    was announced on either side is heard once the network is whole."""
    line, name = line_to(server.port), fresh()
    clock, other = FakeClock(), FakeClock()
    async with (
        opened(server.url(name, port=line.port), clock) as bus,
        opened(server.url(name), other) as peer,
    ):
        elsewhere = await listening(peer)
        subscription = await listening(bus)
        await listening(peer)
        line.set(Fault.BLACKHOLE)
        await bus.announce()
        await heard(subscription, bus)
        await peer.announce()
        await clock.armed(within=PATIENCE, beyond=PATIENCE - 0.5)
        clock.advance(PATIENCE)
        assert await missed(bus) == ["the server did not answer in time"]
        assert peer.state.is_up
        await heard(subscription, bus)
        line.set(Fault.PASS)
        await listening(bus)
        await heard(subscription, bus)
        await heard(elsewhere, bus, peer)


async def test_bus_opens_before_its_server(own):
    """Opening does not wait for the server, and who subscribed is woken when it comes."""
    own.stop()
    async with opened(own.url()) as bus:
        subscription = bus.subscribe()
        assert not await subscription.wait(0)
        assert await missed(bus) == ["nothing listens there"]
        await asyncio.to_thread(own.start)
        await listening(bus)
        assert await hears(subscription)


@pytest.mark.parametrize("scheme", KINDS)
async def test_address_that_never_answers_is_tried_again(scheme):
    """A connection that is taken and never answered is given up, and another one tried."""
    taken = []
    silent = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    clock = FakeClock()
    try:
        async with opened(f"{scheme}://ada:{ESCAPED}@127.0.0.1:{port}", clock) as bus:
            for attempt in (1, 2, 3):
                await until(lambda: len(taken) == attempt, "it was tried")  # noqa: B023
                await clock.armed(within=CONNECT, beyond=CONNECT - 1)
                clock.advance(CONNECT)
                assert await missed(bus) == ["the server did not answer in time"]
                await clock.armed(within=LONGEST)
                if attempt < 3:
                    clock.advance(LONGEST)
    finally:
        for writer in taken:
            writer.close()
        silent.close()
        await silent.wait_closed()


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO {\r\n",
        b"INFO []\r\n",
        b"\xff" * 200_000,
        b"INFO {}\r\nPONG\r\nMSG \xff 1 1\r\n",
        b"%1\r\n$5\r\nproto\r\n:3\r\n$-7\r\n>0\r\n",
    ],
)
async def test_server_that_speaks_otherwise_is_no_bus(scheme, said, caplog):
    """Whatever answers there, the bus says that it is away, tries again later, and repeats none of it."""
    caplog.set_level(logging.DEBUG)

    async def greet(reader, writer):
        writer.write(said)
        writer.close()

    odd = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = odd.sockets[0].getsockname()[1]
    try:
        async with opened(f"{scheme}://ada:{ESCAPED}@127.0.0.1:{port}") as bus:
            await missed(bus)
            assert not bus.state.is_up
    finally:
        odd.close()
        await odd.wait_closed()
    assert PASSWORD not in caplog.text + repr(bus.state)


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("mintmark", "geheim-geheim", "refused the user"),
        ("nobody", ESCAPED, "refused the user"),
        ("", "geheim-geheim", "refused the user"),
        ("deaf", ESCAPED, f"may not publish.* {CHANNEL}"),
        ("mute", ESCAPED, f"may not publish.* {CHANNEL}"),
    ],
)
async def test_refusal_has_a_reason_and_no_secret(server, caplog, user, password, reason):
    """Whoever may not log in, listen or speak is told so, without the password and without the server's
    words; and the bus is down, not deaf."""
    caplog.set_level(logging.DEBUG)
    url = f"{server.scheme}://{user}:{password}@127.0.0.1:{server.port}"
    async with opened(url) as bus:
        (found,) = await missed(bus)
        assert re.search(reason, found)
        assert not bus.state.is_up
        assert bus.state.place == f"{server.scheme} 127.0.0.1:{server.port}, {CHANNEL}"
    for secret in (PASSWORD, ESCAPED, "geheim"):
        assert secret not in caplog.text + repr(bus.state)


async def test_right_password_is_in_no_log(own, caplog):
    """What a bus logs while all goes well, and while its server is lost, holds no secret at any level."""
    caplog.set_level(logging.DEBUG)
    async with opened(own.url()) as bus:
        await listening(bus)
        own.stop()
        await missed(bus)
        assert "geheim" not in caplog.text + repr(bus.state) + repr(bus) + repr(vars(bus._line._server))
    assert STRANGER not in caplog.text


async def test_closed_bus_leaves_nothing(server):
    """After close there is no task and no connection; closing again, or announcing, is no mistake."""
    before = asyncio.all_tasks()
    await until(lambda: server.connections() == 0, "those of other tests are gone")
    async with opened(server.url(fresh())) as bus:
        await listening(bus)
        assert server.connections() == 1
        await bus.announce()
        await bus.close()
        await until(lambda: asyncio.all_tasks() == before, "its tasks ended")
        await bus.announce()
    await until(lambda: server.connections() == 0, "the server let go of it")


async def test_bus_closes_while_it_connects(server):
    """Closing at any moment of connecting leaves no task and no connection behind."""
    before = asyncio.all_tasks()
    await until(lambda: server.connections() == 0, "those of other tests are gone")
    for turns in range(40):
        async with opened(server.url(fresh())):
            for _ in range(turns):
                await asyncio.sleep(0)
    await until(lambda: asyncio.all_tasks() == before, "its tasks ended")
    await until(lambda: server.connections() == 0, "the server let go of them")


@pytest.mark.parametrize("by_server", [False, True])
async def test_connection_lost_with_something_unsent_leaves_nothing(nats_server, by_server):
    """What could not be sent any more keeps nothing alive, and nobody from hearing of the loss."""
    before, lost = asyncio.all_tasks(), asyncio.Event()
    wire = _Nats(bus_place(nats_server.url(fresh()))).wire(heard=lambda: None, lost=lost.set)
    await wire.connect()
    await wire.listen()
    wire._client._pending, wire._client._pending_data_size = [b"PING\r\n"], 6
    wire.drop()
    if by_server:
        await asyncio.wait_for(lost.wait(), 60)
    await wire.ended()
    await until(lambda: asyncio.all_tasks() == before, "its tasks ended")
    assert lost.is_set()


async def test_port_without_a_server_is_named():
    """An address at which nothing listens is said to be one."""
    (port,) = free_ports(1)
    async with opened(f"redis://127.0.0.1:{port}/eu") as bus:
        assert await missed(bus) == ["nothing listens there"]
        assert bus.state.place == f"redis 127.0.0.1:{port}, mintmark.eu"
