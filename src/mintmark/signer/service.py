"""The signer's side of its channels: one for control, one for each worker."""

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mintmark.core.jws import PrivateKeyObject
from mintmark.ports.clock import Clock
from mintmark.ports.signer import HardeningReport, SignerRefused, SignerStatus
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.signer.keys import Admitted, KeyTable, new_private_key
from mintmark.signer.threads import Threads, attempt

log: Final = logging.getLogger("mintmark.signer")

MAX_IN_FLIGHT: Final = 256
"""Signatures of one worker under way in threads; then its channel is not read until some are done."""


class SignerService:
    """Serves one key table to one control channel and any number of workers, in the running loop.

    ``rsa_bits`` is the size of new RSA keys, 2048 or 3072; ``threads`` how many RSA signatures run at
    once; ``hardening`` what ``status`` reports of this process.
    """

    def __init__(self, *, clock: Clock, rsa_bits: int, threads: int, hardening: HardeningReport = ()) -> None:
        if rsa_bits not in {2048, 3072}:
            raise ValueError("RSA keys have 2048 or 3072 bits here")
        self._rsa_bits = rsa_bits
        self._hardening = hardening
        self._table = KeyTable(clock)
        self._signing: Threads[bytes] = Threads(threads, "sign")
        # A thread of its own: a key takes as long to make as a hundred signatures.
        self._making: Threads[PrivateKeyObject] = Threads(1, "generate")
        self._workers: set[_Worker] = set()
        self._control: Channel | None = None

    def serve_control(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        """Take orders on ``sock`` until it ends, which ends every worker's channel too."""

        def ended(why: str) -> None:
            log.info("control channel ended: %s", why)
            for worker in tuple(self._workers):
                worker.channel.close("the signer ends")
            on_end()

        self._control = Channel(
            sock, on_frame=self._obey, on_end=ended, limit=protocol.MAX_REQUEST, descriptors=True
        )

    def serve_worker(self, sock: socket.socket) -> None:
        """Sign what comes on ``sock`` until it ends."""
        worker = _Worker(sock, self._table, self._signing, self._workers.discard)
        self._workers.add(worker)
        log.info("worker channel attached, %d in all", len(self._workers))

    def close(self) -> None:
        """End every channel and thread; the keys go with it."""
        if self._control is not None:
            self._control.close("the signer ends")
        self._signing.close()
        self._making.close()
        self._table.forget_all()

    def _obey(self, frame: memoryview) -> None:
        control = self._control
        if control is None:
            return
        try:
            request = protocol.decode_control_request(frame)
        except msgspec.MsgspecError:
            control.close("a message that is none of control's")
            return
        try:
            answer = self._perform(control, request)
        except SignerRefused as refusal:
            answer = protocol.Refused(request.id, refusal.reason)
        if answer is not None:
            control.send(protocol.encode(answer))

    def _perform(self, control: Channel, request: protocol.ControlRequest) -> protocol.ControlAnswer | None:
        """The answer, or None when it comes later, or never because the channel has ended."""
        match request:
            case protocol.Generate(id, _, alg, _):
                self._table.refuse_more()
                self._making.submit(
                    partial(new_private_key, alg, self._rsa_bits), partial(self._made, control, request)
                )
                return None
            case protocol.Extend(id, kid, max_exp, lease_until):
                self._table.extend(kid, max_exp=max_exp, lease_until=lease_until)
                log.debug("extended %s: max_exp %d, lease_until %d", kid, max_exp, lease_until)
                return protocol.Done(id)
            case protocol.Forget(id, kid):
                self._table.forget(kid)
                log.info("forgot %s", kid)
                return protocol.Done(id)
            case protocol.Report(id):
                keys = self._table.status()
                return protocol.Reported(
                    id, SignerStatus(os.getpid(), keys, len(self._workers), self._hardening)
                )
            case protocol.Attach(id):
                descriptor = control.take_descriptor()
                if descriptor is None:
                    control.close("a worker's descriptor is missing")
                    return None
                self.serve_worker(socket.socket(fileno=descriptor))
                return protocol.Done(id)

    def _made(self, control: Channel, request: protocol.Generate, made: PrivateKeyObject | Exception) -> None:
        answer: protocol.ControlAnswer
        try:
            if isinstance(made, Exception):
                raise made
            public = self._table.add(made, issuer=request.issuer, alg=request.alg, typs=request.typs)
        except SignerRefused as refusal:
            answer = protocol.Refused(request.id, refusal.reason)
        except Exception as error:  # noqa: BLE001  Control is told that it failed; the rest stays here.
            log.error("no key could be made: %s", type(error).__qualname__)
            answer = protocol.Failed(request.id)
        else:
            log.info("made %s for %s", public.kid, public.alg)
            spki = public.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            answer = protocol.Generated(request.id, spki)
        control.send(protocol.encode(answer))


class _Worker:
    """One worker's channel: it can sign, and nothing else."""

    __slots__ = ("_in_flight", "_table", "_threads", "channel")

    def __init__(
        self,
        sock: socket.socket,
        table: KeyTable,
        threads: Threads[bytes],
        on_end: "Callable[[_Worker], None]",
    ) -> None:
        self._table = table
        self._threads = threads
        self._in_flight = 0

        def ended(why: str) -> None:
            log.info("worker channel ended: %s", why)
            on_end(self)

        self.channel = Channel(sock, on_frame=self._sign, on_end=ended, limit=protocol.MAX_REQUEST)

    def _sign(self, frame: memoryview) -> None:
        try:
            request = protocol.decode_sign(frame)
        except msgspec.MsgspecError:
            self.channel.close("a message that is no Sign")
            return
        try:
            admitted = self._table.admit(request.kid, request.typ, request.payload)
        except SignerRefused as refusal:
            self.channel.send(protocol.encode(protocol.Refused(request.id, refusal.reason)))
            return
        if not admitted.threaded:
            self._answer(request.id, admitted, attempt(admitted.signature))
            return
        self._in_flight += 1
        self.channel.hold(self._in_flight >= MAX_IN_FLIGHT)
        self._threads.submit(admitted.signature, partial(self._signed, request.id, admitted))

    def _signed(self, number: int, admitted: Admitted, signature: bytes | Exception) -> None:
        self._in_flight -= 1
        self.channel.hold(self._in_flight >= MAX_IN_FLIGHT)
        self._answer(number, admitted, signature)

    def _answer(self, number: int, admitted: Admitted, signature: bytes | Exception) -> None:
        answer: protocol.WorkerAnswer
        if isinstance(signature, Exception):
            log.error("a signature failed: %s", type(signature).__qualname__)
            answer = protocol.Failed(number)
        else:
            try:
                answer = protocol.Signed(number, self._table.finish(admitted, signature))
            except SignerRefused as refusal:
                answer = protocol.Refused(number, refusal.reason)
        self.channel.send(protocol.encode(answer))
