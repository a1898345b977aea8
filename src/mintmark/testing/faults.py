"""A store and a bus that fail on demand, around any real one.

::

    faults = Faults(clock=clock)
    store = FaultyStore(inner, faults)
    faults.fail_after("sessions.redeem", times=1)     # committed, but the answer is lost
    with pytest.raises(StoreUnavailable):
        await store.sessions.redeem(change)

Operations are named as they are reached: ``sessions.redeem``, ``keyring.swap``, ``now``; a subject alone
(``sessions``) means all of it, ``*`` everything.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar, cast

from mintmark.errors import StoreUnavailable
from mintmark.ports.budget import charged, spent
from mintmark.ports.bus import Bus, BusState, Subscription
from mintmark.ports.clock import Clock
from mintmark.ports.directory import Directory
from mintmark.ports.keyring import KeyRingStore
from mintmark.ports.outbox import LogoutOutbox
from mintmark.ports.revocations import RevocationLog
from mintmark.ports.sessions import SessionStore
from mintmark.ports.store import Store
from mintmark.units import NumericDate

T = TypeVar("T")

EVERYTHING: Final = "*"


class _Where(Enum):
    BEFORE = "before it reached the database"
    AFTER = "after it was committed"


@dataclass(slots=True)
class _Failure:
    where: _Where
    left: int | None


class Gate:
    """Where calls wait until a test opens it; :meth:`reached` waits until one does."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._waiting = asyncio.Semaphore(0)

    async def reached(self, count: int = 1) -> None:
        """Wait until ``count`` more calls stand here."""
        for _ in range(count):
            await self._waiting.acquire()

    def open(self) -> None:
        """Let through whoever stands here, and all later ones."""
        self._open.set()

    async def _pass(self) -> None:
        self._waiting.release()
        await self._open.wait()


class Faults:
    """What goes wrong from now on, by operation; nothing at first. ``calls`` counts what was asked."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}
        self._delays: dict[str, float] = {}
        self._before: dict[str, Gate] = {}
        self._after: dict[str, Gate] = {}
        self.calls: Final[Counter[str]] = Counter()

    def fail_before(self, *names: str, times: int | None = None) -> None:
        """The next ``times`` calls (all, where it is None) change nothing and raise StoreUnavailable."""
        self._fail(names, _Where.BEFORE, times)

    def fail_after(self, *names: str, times: int | None = None) -> None:
        """As :meth:`fail_before`, but what was asked is done: only its answer is lost."""
        self._fail(names, _Where.AFTER, times)

    def _fail(self, names: tuple[str, ...], where: _Where, times: int | None) -> None:
        for name in names or (EVERYTHING,):
            self._failures[name] = _Failure(where, times)

    def delay(self, span: float, *names: str) -> None:
        """Each call waits ``span`` seconds of the clock before it is done, unless its request has less."""
        for name in names or (EVERYTHING,):
            self._delays[name] = span

    def hold_before(self, *names: str) -> Gate:
        """Each call waits at the gate before anything is done: a process that is paused on its way in."""
        gate = Gate()
        self._before.update((name, gate) for name in names or (EVERYTHING,))
        return gate

    def hold_after(self, *names: str) -> Gate:
        """Each call waits at the gate once it is committed: a process that is paused on its way out."""
        gate = Gate()
        self._after.update((name, gate) for name in names or (EVERYTHING,))
        return gate

    def recover(self) -> None:
        """Nothing goes wrong any more; who stands at a gate passes."""
        self._failures.clear()
        self._delays.clear()
        for gate in (*self._before.values(), *self._after.values()):
            gate.open()
        self._before.clear()
        self._after.clear()

    async def call(self, name: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Do ``operation`` under its name, with whatever goes wrong."""
        self.calls[name] += 1
        # Only the delay: what the inner store takes is charged by itself.
        with charged(math.inf) as allowed:
            if (span := _find(self._delays, name)) is not None:
                await self._clock.sleep(min(span, allowed))
                if allowed < span:
                    raise spent()
        if (gate := _find(self._before, name)) is not None:
            await gate._pass()  # noqa: SLF001 - tests see a gate, calls pass it
        failure = self._next_failure(name)
        if failure is _Where.BEFORE:
            raise StoreUnavailable(f"{name} failed {failure.value}, because a test wants it")
        answer = await operation()
        if (gate := _find(self._after, name)) is not None:
            await gate._pass()  # noqa: SLF001
        if failure is _Where.AFTER:
            raise StoreUnavailable(f"{name} failed {failure.value}, because a test wants it")
        return answer

    def _next_failure(self, name: str) -> _Where | None:
        failure = _find(self._failures, name)
        if failure is None or failure.left == 0:
            return None
        if failure.left is not None:
            failure.left -= 1
        return failure.where


def _find(table: dict[str, T], name: str) -> T | None:
    for key in (name, name.partition(".")[0], EVERYTHING):
        if key in table:
            return table[key]
    return None


class _Subject:
    """A part of a store, each of whose operations goes through the faults."""

    def __init__(self, name: str, inner: object, faults: Faults) -> None:
        self._name = name
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = getattr(self._inner, name)

        async def call(*args: Any, **options: Any) -> Any:
            return await self._faults.call(f"{self._name}.{name}", lambda: operation(*args, **options))

        return call


class FaultyStore:
    """:class:`mintmark.ports.store.Store` around another one."""

    def __init__(self, inner: Store, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self.keyring: Final = cast("KeyRingStore", _Subject("keyring", inner.keyring, faults))
        self.sessions: Final = cast("SessionStore", _Subject("sessions", inner.sessions, faults))
        self.revocations: Final = cast("RevocationLog", _Subject("revocations", inner.revocations, faults))
        self.directory: Final = cast("Directory", _Subject("directory", inner.directory, faults))
        self.outbox: Final = cast("LogoutOutbox", _Subject("outbox", inner.outbox, faults))

    async def open(self) -> None:
        """Open the inner store, unless ``open`` fails."""
        await self._faults.call("open", self._inner.open)

    async def close(self) -> None:
        """Close the inner store; never fails."""
        await self._inner.close()

    async def now(self) -> NumericDate:
        """The inner store's time, unless ``now`` fails."""
        return NumericDate(await self._faults.call("now", self._inner.now))


class FaultyBus:
    """:class:`mintmark.ports.bus.Bus` whose announcements are lost, repeated, or come late and so in
    another order, as those of any bus may."""

    def __init__(self, inner: Bus, *, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._late: set[asyncio.Task[None]] = set()
        self.losing = False
        """Whether announcements reach nobody."""
        self.copies = 1
        """How often each one is made."""
        self.lateness: list[float] = []
        """Seconds by which the next announcements come late, one each; those after them come at once."""
        self._reason = ""

    @property
    def state(self) -> BusState:
        """That of the inner bus, unless it is cut: what is lost on the way is lost in silence."""
        inner = self._inner.state
        return BusState(False, inner.place, self._reason) if self._reason else inner

    async def cut(self, reason: str) -> None:
        """Be away, for ``reason``: announcements reach nobody, and whoever listens is woken by the loss."""
        self._reason = reason
        await self._inner.announce()

    async def mend(self) -> None:
        """Be back, which wakes whoever listens."""
        self._reason = ""
        await self._inner.announce()

    async def open(self) -> None:
        """Open the inner bus."""
        await self._inner.open()

    async def close(self) -> None:
        """Close the inner bus; what is late never comes."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._inner.close()

    async def announce(self) -> None:
        """Announce, or whatever it is that goes wrong."""
        if self.losing or self._reason:
            return
        if not self.lateness:
            await self._announce()
            return
        task = asyncio.ensure_future(self._announce_after(self.lateness.pop(0)))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _announce_after(self, span: float) -> None:
        await self._clock.sleep(span)
        await self._announce()

    async def _announce(self) -> None:
        for _ in range(self.copies):
            await self._inner.announce()
            # A listener that is quick enough notices each copy.
            await asyncio.sleep(0)

    def subscribe(self) -> Subscription:
        """A subscription of the inner bus."""
        return self._inner.subscribe()
