"""What the operations of one request may take together, by a clock that the test moves."""

import asyncio

import pytest

from mintmark.errors import StoreUnavailable
from mintmark.ports.budget import Budget, charged
from mintmark.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def operate(
    clock: FakeClock, span: float, *, patience: float = 10, error: BaseException | None = None
) -> float:
    """What an operation that took ``span`` seconds, or raised ``error`` then, was allowed."""
    with charged(patience) as allowed:
        clock.advance(span)
        if error is not None:
            raise error
    return allowed


def test_operation_of_no_request_has_its_own_patience(clock):
    """What a background loop asks is bounded each by itself, however much it asks."""
    assert [operate(clock, 100) for _ in range(3)] == [10, 10, 10]


def test_operations_of_one_request_share_its_seconds(clock):
    """Each takes from what is left; what passes between them takes nothing; the last gets its patience."""
    with Budget(clock, 2).covering():
        assert operate(clock, 0.5) == 2
        clock.advance(1_000)
        assert operate(clock, 0.5) == 1.5
        assert operate(clock, 0, patience=0.25) == 0.25
        assert operate(clock, 0) == 1


@pytest.mark.parametrize("late", [0, 5])
def test_operation_begins_only_where_something_is_left(clock, late):
    """Once the seconds are used up, or more than these, an operation is refused before it does anything."""
    with Budget(clock, 2).covering():
        operate(clock, 2 + late)
        began = False
        with pytest.raises(StoreUnavailable, match="this request"), charged(10):
            began = True
        assert not began
    assert operate(clock, 0) == 10


def test_operation_that_fails_is_charged_too(clock):
    """However an operation ends, what it took is gone."""
    with Budget(clock, 2).covering():
        for error in (StoreUnavailable("away"), asyncio.CancelledError(), KeyError("a defect")):
            with pytest.raises(type(error)):
                operate(clock, 0.5, error=error)
        assert operate(clock, 0) == 0.5


async def test_requests_share_nothing(clock):
    """Requests of one process at one time have each its own seconds."""

    async def request(span: float) -> list[float]:
        allowed = []
        with Budget(clock, 3).covering():
            for _ in range(3):
                allowed.append(operate(clock, span))
                await asyncio.sleep(0)
        return allowed

    short, long = await asyncio.gather(request(0.5), request(1))
    assert short == [3, 2.5, 2]
    assert long == [3, 2, 1]


async def test_task_that_outlives_its_request_has_no_budget(clock):
    """What a request began and left behind is bounded by it while it lasts, and not refused for it later."""
    over = asyncio.Event()

    async def left_behind() -> list[float]:
        allowed = [operate(clock, 2)]
        await over.wait()
        return [*allowed, operate(clock, 100), operate(clock, 100)]

    with Budget(clock, 2).covering():
        task = asyncio.create_task(left_behind())
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            operate(clock, 0)
    over.set()
    assert await task == [2, 10, 10]
