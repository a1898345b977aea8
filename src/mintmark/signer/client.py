"""The callers' side of the signer's channels: control's, and a worker's."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mintmark.core import jwk
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.errors import Overloaded, SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.signer import MadeKey, Refusal, SignerRefused, SignerStatus
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.units import Issuer, Kid, NumericDate, Seconds

MAX_WAITING: Final = 1024
"""Calls of one client that wait for the signer; the next one is refused instead of queued."""
SIGN_TIMEOUT: Final = Seconds(5)
CONTROL_TIMEOUT: Final = Seconds(30)
"""A 3072-bit RSA key takes 0.1 s to make, and now and then ten times that, on a machine that is not busy."""


class _Answer(Protocol):
    @property
    def id(self) -> int: ...


A = TypeVar("A", bound=_Answer)


class _Line(Generic[A]):
    """One channel, and the calls that wait for an answer on it."""

    def __init__(
        self,
        sock: socket.socket,
        decode: Callable[[memoryview], A],
        *,
        clock: Clock,
        timeout: Seconds,
        limit: int = protocol.MAX_REQUEST,
        descriptors: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._decode = decode
        self._clock = clock
        self._timeout = timeout
        self._limit = limit
        self._waiting: dict[int, tuple[asyncio.Future[A], float]] = {}
        self._last_id = 0
        self._watch: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._channel = Channel(
            sock, on_frame=self._arrived, on_end=self._end, limit=protocol.MAX_ANSWER, descriptors=descriptors
        )

    async def ask(self, request: Callable[[int], msgspec.Struct], descriptor: int | None = None) -> A:
        """The answer to ``request(n)``, n a new id; raises SignerRefused, SignerUnavailable, Overloaded."""
        if self._channel.closed:
            raise SignerUnavailable("the signer is gone")
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many signatures are waiting")
        self._last_id = number = self._last_id + 1
        message = protocol.encode(request(number))
        if len(message) > self._limit:
            raise SignerRefused(Refusal.TOO_LARGE)
        answered: asyncio.Future[A] = self._loop.create_future()
        self._waiting[number] = (answered, self._clock.monotonic())
        try:
            if descriptor is None:
                self._channel.send(message)
            else:
                self._send_with(message, descriptor)
            if self._watch is None:
                self._watch = self._loop.create_task(self._give_up_late())
            answer = await answered
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, protocol.Refused):
            raise SignerRefused(answer.reason)
        if isinstance(answer, protocol.Failed):
            raise SignerUnavailable("the signer failed")
        return answer

    def close(self) -> None:
        """End the channel; whoever waits gets SignerUnavailable. Idempotent."""
        self._channel.close()

    def _send_with(self, message: bytes, descriptor: int) -> None:
        try:
            self._channel.send_with_descriptor(message, descriptor)
        except OSError:
            raise SignerUnavailable("the control channel is busy or broken") from None

    def _arrived(self, frame: memoryview) -> None:
        try:
            answer = self._decode(frame)
        except msgspec.MsgspecError:
            self._channel.close("the signer sent what is no answer")
            return
        # A caller that was cancelled, or gave up, has left; its answer goes nowhere.
        waiting = self._waiting.get(answer.id)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(answer)

    def _end(self, why: str) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for answered, _ in self._waiting.values():
            if not answered.done():
                answered.set_exception(SignerUnavailable("the signer is gone"))
        if not self.ended.done():
            self.ended.set_result(why)

    async def _give_up_late(self) -> None:
        """Fail the calls that a stopped or stuck signer leaves unanswered, one watch for all of them."""
        while self._waiting:
            _, oldest = next(iter(self._waiting.values()))
            await self._clock.sleep(max(0.0, oldest + self._timeout - self._clock.monotonic()))
            now = self._clock.monotonic()
            for number, (answered, since) in tuple(self._waiting.items()):
                if since + self._timeout > now:
                    break
                del self._waiting[number]
                if not answered.done():
                    answered.set_exception(SignerUnavailable("the signer did not answer in time"))
        self._watch = None


class SignerClient:
    """:class:`mintmark.ports.signer.Signer` over ``sock``, a channel that control attached.

    Takes ``sock`` over; belongs to the loop that is running. ``timeout`` bounds each call.
    """

    def __init__(self, sock: socket.socket, *, clock: Clock, timeout: Seconds = SIGN_TIMEOUT) -> None:
        self._line: _Line[protocol.WorkerAnswer] = _Line(
            sock, protocol.decode_worker_answer, clock=clock, timeout=timeout
        )

    async def sign(self, kid: Kid, typ: str, payload: bytes) -> str:
        """The compact JWS of ``payload``; see the port."""
        answer = await self._line.ask(lambda n: protocol.Sign(n, kid, typ, payload))
        if isinstance(answer, protocol.Signed):
            return answer.token
        raise SignerUnavailable("the signer answered something else")

    async def ended(self) -> str:
        """Return, with a sentence that says why, once the signer is gone for good."""
        return await asyncio.shield(self._line.ended)

    def close(self) -> None:
        """Give the channel back; what waits raises SignerUnavailable. Idempotent."""
        self._line.close()


class ControlClient:
    """:class:`mintmark.ports.signer.SignerControl` over ``sock``; closing it ends the signer."""

    def __init__(self, sock: socket.socket, *, clock: Clock, timeout: Seconds = CONTROL_TIMEOUT) -> None:
        self._line: _Line[protocol.ControlAnswer] = _Line(
            sock, protocol.decode_control_answer, clock=clock, timeout=timeout, limit=protocol.MAX_ORDER
        )

    async def generate(
        self, *, issuer: Issuer, alg: Algorithm, typs: frozenset[str], mode: KeyMode = KeyMode.OWN
    ) -> MadeKey:
        """A new key; see the port."""
        answer = await self._line.ask(lambda n: protocol.Generate(n, issuer, alg, typs, mode))
        if not isinstance(answer, protocol.Generated):
            raise SignerUnavailable("the signer answered something else")
        # What is no key of ours cannot come from our signer; jwk.public_key raises UnusableKey on it.
        public = jwk.public_key(load_der_public_key(answer.spki), alg)  # type: ignore[arg-type]
        return MadeKey(public, answer.sealed)

    async def load(
        self,
        *,
        kid: Kid,
        issuer: Issuer,
        alg: Algorithm,
        typs: frozenset[str],
        mode: KeyMode,
        sealed: bytes | None = None,
    ) -> None:
        """Hold a key of the cluster too; see the port."""
        await self._line.ask(lambda n: protocol.Load(n, kid, issuer, alg, typs, mode, sealed))

    async def reseal(self, *, kid: Kid, issuer: Issuer, alg: Algorithm, sealed: bytes) -> bytes | None:
        """Another seal for the same key; see the port."""
        answer = await self._line.ask(lambda n: protocol.Reseal(n, kid, issuer, alg, sealed))
        if isinstance(answer, protocol.Resealed):
            return answer.sealed
        raise SignerUnavailable("the signer answered something else")

    async def extend(self, kid: Kid, *, max_exp: NumericDate, lease_until: NumericDate) -> None:
        """Raise what ``kid`` may sign; see the port."""
        await self._line.ask(lambda n: protocol.Extend(n, kid, max_exp, lease_until))

    async def forget(self, kid: Kid, *, destroy: bool = False) -> None:
        """Destroy the private half of ``kid``; see the port."""
        await self._line.ask(lambda n: protocol.Forget(n, kid, destroy))

    async def sweep(self, *, known: frozenset[Kid], issuer: Issuer, older_than: Seconds) -> tuple[Kid, ...]:
        """Destroy what was left behind in the token; see the port."""
        answer = await self._line.ask(lambda n: protocol.Sweep(n, known, issuer, older_than))
        if isinstance(answer, protocol.Swept):
            return answer.kids
        raise SignerUnavailable("the signer answered something else")

    async def status(self) -> SignerStatus:
        """What the signer holds; see the port."""
        answer = await self._line.ask(protocol.Report)
        if isinstance(answer, protocol.Reported):
            return answer.status
        raise SignerUnavailable("the signer answered something else")

    async def attach(self) -> socket.socket:
        """One end of a new worker's channel; see the port."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                await self._line.ask(protocol.Attach, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        return ours

    async def ended(self) -> str:
        """Return, with a sentence that says why, once the signer is gone for good."""
        return await asyncio.shield(self._line.ended)

    def close(self) -> None:
        """Close the channel, upon which the signer exits. Idempotent."""
        self._line.close()
