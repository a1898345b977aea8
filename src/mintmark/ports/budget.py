"""How long one request may wait for the store: for all its operations together, not for each.

Whoever answers requests opens a :class:`Budget` around each; every adapter of the store does its work within
:func:`charged`. What is not part of a request, a background loop for instance, has no budget, and each of
its operations as long as any may take (STORE-2).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mintmark.errors import StoreUnavailable
from mintmark.ports.clock import Clock


class Budget:
    """``span`` seconds that the operations of one request may take together, by ``clock``.

    Only what passes within operations counts: a request may wait for other things between them.
    """

    __slots__ = ("_clock", "_left")

    def __init__(self, clock: Clock, span: float) -> None:
        self._clock = clock
        self._left = span

    @contextmanager
    def covering(self) -> Iterator[None]:
        """What runs inside is the request; so are the tasks that it begins, until this ends."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            # A task that was begun inside and goes on is no request: it would be refused for ever.
            self._left = math.inf

    @contextmanager
    def charge(self, patience: float) -> Iterator[float]:
        """As :func:`charged`, for this budget."""
        if self._left <= 0:
            raise spent()
        began = self._clock.monotonic()
        try:
            yield min(patience, self._left)
        finally:
            self._left -= self._clock.monotonic() - began


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def charged(patience: float) -> Iterator[float]:
    """Seconds for the operation inside: ``patience``, or what its request has left where that is less.

    Raises StoreUnavailable where nothing is left, before anything is begun. Who is stopped by less than its
    ``patience`` raises :func:`spent`.
    """
    budget = _current.get()
    if budget is None:
        yield patience
        return
    with budget.charge(patience) as allowed:
        yield allowed


def spent() -> StoreUnavailable:
    """The error of an operation whose request has no time left."""
    return StoreUnavailable("the store took too long for all that this request asked it")
