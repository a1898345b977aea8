"""Subscriptions within one event loop, which every bus ends in whatever carries its wake-ups."""

import asyncio
from collections.abc import Callable

from mintmark.ports.clock import Clock


class Subscription:
    """:class:`mintmark.ports.bus.Subscription`: one listener, which waits in one place at a time."""

    def __init__(self, clock: Clock, leave: Callable[["Subscription"], None]) -> None:
        self._clock = clock
        self._leave = leave
        self._announced = False
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the port's own promise (BUS-3)
        """Whether something was announced since the last call; False after ``timeout`` seconds."""
        if self._waiting is not None:
            raise RuntimeError("a subscription is waited for in one place at a time")
        if not self._announced and not self._closed:
            self._waiting = asyncio.get_running_loop().create_future()
            sleeper = asyncio.ensure_future(self._clock.sleep(timeout))
            sleeper.add_done_callback(self._wake)
            try:
                await self._waiting
            finally:
                self._waiting = None
                # It ends after this returned, and would wake whoever waits here by then.
                sleeper.remove_done_callback(self._wake)
                sleeper.cancel()
        announced, self._announced = self._announced and not self._closed, False
        return announced

    def notify(self) -> None:
        """Something was announced."""
        self._announced = True
        self._wake()

    def close(self) -> None:
        """Stop listening; a waiting call returns False."""
        self._closed = True
        self._wake()
        self._leave(self)

    def _wake(self, _: object = None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Subscriptions:
    """All subscriptions of one bus."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: set[Subscription] = set()

    def add(self) -> Subscription:
        """A new one, which wakes for what is announced from now on."""
        subscription = Subscription(self._clock, self._all.discard)
        self._all.add(subscription)
        return subscription

    def notify(self) -> None:
        """Wake them all."""
        for subscription in tuple(self._all):
            subscription.notify()

    def close(self) -> None:
        """End them all."""
        for subscription in tuple(self._all):
            subscription.close()
