"""The test clock: time moves when told, and a test can wait until somebody waits for it."""

import asyncio
import threading

import pytest

from mintmark.testing import FakeClock

pytestmark = pytest.mark.anyio


def test_time_stands_still_until_moved():
    """Nothing but the test moves the clock."""
    clock = FakeClock(1_800_000_000)
    assert (clock.now(), clock(), clock.monotonic()) == (1_800_000_000, 1_800_000_000, 0.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (1_800_000_002, 2.5)


def test_step_moves_the_wall_clock_alone():
    """A correction of the time of day leaves spans as they are (CLOCK-2)."""
    clock = FakeClock(1_000)
    clock.step(-100)
    assert (clock.now(), clock.monotonic()) == (900, 0.0)


def test_time_does_not_go_back():
    """Moving by a negative span is refused."""
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(-1)


async def test_sleep_ends_when_its_time_has_come_and_not_before():
    """CLOCK-3: a sleeper wakes at its deadline, not earlier."""
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.armed(within=10)
    clock.advance(9.5)
    await asyncio.sleep(0)
    assert not sleeper.done()
    clock.advance(0.5)
    await sleeper


async def test_cancelled_sleep_ends_at_once_and_disarms_its_timer():
    """CLOCK-3: cancelling a sleeper needs no time to pass, and nobody can wait for its timer any more."""
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.armed(within=10)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert clock.armed_spans() == []


async def test_armed_waits_for_the_timer_that_is_meant():
    """A timer outside the window does not count."""
    clock = FakeClock()
    other = asyncio.create_task(clock.sleep(5))
    await clock.armed(within=5)
    waiting = asyncio.create_task(clock.armed(beyond=5, within=60))
    await asyncio.sleep(0)
    assert not waiting.done()
    meant = asyncio.create_task(clock.sleep(30))
    await waiting
    clock.advance(60)
    await asyncio.gather(other, meant)


async def test_several_timers_can_be_waited_for():
    """``count`` timers must be armed, not one of them twice."""
    clock = FakeClock()
    waiting = asyncio.create_task(clock.armed(within=5, count=2))
    sleepers = [asyncio.create_task(clock.sleep(5))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    sleepers.append(asyncio.create_task(clock.sleep(5)))
    await waiting
    await clock.pass_time(5)
    await asyncio.gather(*sleepers)


def test_a_thread_waits_for_a_timer_of_a_loop_in_another():
    """The clock may be shared: timers armed in one thread are seen, and woken, from another."""
    clock = FakeClock()
    ended = threading.Event()

    def run() -> None:
        asyncio.run(clock.sleep(300))
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    clock.pass_armed(300)
    thread.join(20)
    assert ended.is_set()


def test_a_timer_of_a_closed_loop_disturbs_nobody():
    """Moving time past a sleeper whose loop died is no error."""
    clock = FakeClock()

    async def start() -> None:
        task = asyncio.create_task(clock.sleep(1))
        await clock.armed(within=1)
        task.cancel()

    asyncio.run(start())
    clock.advance(10)


def test_a_wait_for_a_timer_that_nobody_arms_fails_and_says_what_is_armed(monkeypatch):
    """A mistake in a test ends in an error that names the armed timers."""
    monkeypatch.setattr("mintmark.testing.clock._PATIENCE", 0.01)
    with pytest.raises(TimeoutError, match=r"armed: \[\]"):
        FakeClock().wait_armed(within=1)


async def test_listeners_hear_of_every_move():
    """A listener is called after each move until it ends it."""
    clock = FakeClock()
    heard: list[float] = []
    end = clock.listen(lambda: heard.append(clock.monotonic()))
    clock.advance(1)
    clock.advance(2)
    end()
    clock.advance(4)
    assert heard == [1.0, 3.0]
