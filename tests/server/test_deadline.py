"""Bounds on time, by a clock that the test moves."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.errors import StoreUnavailable
from mintmark.server.deadline import Deadline, Expiry
from mintmark.testing.clock import FakeClock


def late() -> StoreUnavailable:
    return StoreUnavailable("too late")


async def test_work_in_time_is_what_it_is():
    """What ends before the deadline gives its result, or raises its own error."""
    deadline = Deadline(FakeClock(), 5, late)

    async def fail() -> None:
        raise KeyError("mine")

    assert await deadline.hold(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await deadline.hold(fail())


async def test_work_that_is_late_is_cancelled_and_named():
    """At the deadline the work is cancelled, and whoever waited hears the given error."""
    clock = FakeClock()
    deadline, cleaned = Deadline(clock, 5, late), []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    waiting = asyncio.ensure_future(deadline.hold(hang()))
    await clock.pass_time(5)
    with pytest.raises(StoreUnavailable, match="too late"):
        await waiting
    assert cleaned == [True]
    assert not waiting.cancelled()


async def test_cancelling_from_outside_stays_a_cancelling():
    """Whoever cancels the caller cancels the work, and no error takes the place of that."""
    deadline = Deadline(FakeClock(), 5, late)
    waiting = asyncio.ensure_future(deadline.hold(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_cancelling_from_outside_at_the_deadline_stays_a_cancelling():
    """Cancelled by the deadline and from outside in one turn of the loop: outside wins."""
    clock = FakeClock()
    deadline = Deadline(clock, 5, late)
    waiting = asyncio.ensure_future(deadline.hold(asyncio.Event().wait()))
    await clock.armed(within=5)
    expiring = next(iter(deadline._expiry._waiting))
    expiring.expire()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_deadlines_nest():
    """Within a long deadline a short one ends its own work alone."""
    clock = FakeClock()
    outer, inner = Deadline(clock, 10, late), Deadline(clock, 1, lambda: StoreUnavailable("inner"))

    async def work() -> str:
        with pytest.raises(StoreUnavailable, match="inner"):
            await inner.hold(asyncio.Event().wait())
        return "went on"

    waiting = asyncio.ensure_future(outer.hold(work()))
    await clock.pass_time(1)
    assert await waiting == "went on"


async def test_work_after_a_deadline_was_met_is_not_cancelled():
    """A deadline that was met has no hold on what its caller does next, however long that takes."""
    clock = FakeClock()
    deadline = Deadline(clock, 5, late)
    release = asyncio.Event()

    async def caller() -> str:
        await deadline.hold(asyncio.sleep(0))
        await release.wait()
        return "done"

    waiting = asyncio.ensure_future(caller())
    await clock.pass_time(5)
    for _ in range(10):
        await asyncio.sleep(0)
    release.set()
    assert await waiting == "done"


async def test_idle_expiry_leaves_no_timer():
    """Once nothing waits, and its last timer has gone off, no task and no timer are left."""
    clock = FakeClock()
    expiry = Expiry(clock, 5)
    before = asyncio.all_tasks()
    waiting = expiry.begin(lambda: None)
    await clock.armed(within=5)
    expiry.end(waiting)
    clock.advance(5)
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30))
def test_everything_expires_exactly_on_time_and_once(steps):
    """Whatever begins, ends and passes: what has not ended is called back after the span, once, in order."""

    async def run() -> None:
        clock = FakeClock()
        expiry = Expiry(clock, 3)
        expired: list[tuple[int, float]] = []
        began: dict[int, float] = {}
        open_ = []
        for number, (span, ends) in enumerate(steps):
            began[number] = clock.monotonic()
            waiting = expiry.begin(lambda number=number: expired.append((number, clock.monotonic())))  # type: ignore[misc]
            if ends:
                expiry.end(waiting)
            else:
                open_.append(number)
            for _ in range(span):
                for _ in range(3):
                    await asyncio.sleep(0)
                clock.advance(1)
            for _ in range(5):
                await asyncio.sleep(0)
        for _ in range(4):
            clock.advance(1)
            for _ in range(5):
                await asyncio.sleep(0)
        assert [number for number, _ in expired] == open_
        assert all(at - began[number] == 3 for number, at in expired)
        assert all(one[1] <= two[1] for one, two in pairwise(expired))

    asyncio.run(run())
