"""The signer's end of one worker's channel."""

import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import SignerRefused
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.signer.keys import Admitted, KeyTable, Where
from mintmark.signer.threads import Threads, attempt

log: Final = logging.getLogger("mintmark.signer")

MAX_IN_FLIGHT: Final = 256
"""Signatures of one worker under way in threads; then its channel is not read until some are done."""


class WorkerLine:
    """One worker's channel: it can sign, and nothing else."""

    __slots__ = ("_in_flight", "_pools", "_table", "channel")

    def __init__(
        self,
        sock: socket.socket,
        table: KeyTable,
        pools: Mapping[Where, Threads[bytes]],
        on_end: "Callable[[WorkerLine], None]",
    ) -> None:
        self._table = table
        self._pools = pools
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
        except SignerUnavailable:
            self.channel.send(protocol.encode(protocol.Failed(request.id)))
            return
        if admitted.where is Where.LOOP:
            self._answer(request.id, admitted, attempt(admitted.signature))
            return
        self._in_flight += 1
        self.channel.hold(self._in_flight >= MAX_IN_FLIGHT)
        self._pools[admitted.where].submit(admitted.signature, partial(self._signed, request.id, admitted))

    def _signed(self, number: int, admitted: Admitted, signature: bytes | Exception) -> None:
        self._in_flight -= 1
        self.channel.hold(self._in_flight >= MAX_IN_FLIGHT)
        self._answer(number, admitted, signature)

    def _answer(self, number: int, admitted: Admitted, signature: bytes | Exception) -> None:
        answer: protocol.WorkerAnswer
        if isinstance(signature, SignerUnavailable):
            answer = protocol.Failed(number)
        elif isinstance(signature, Exception):
            log.error("a signature failed: %s", type(signature).__qualname__)
            answer = protocol.Failed(number)
        else:
            try:
                answer = protocol.Signed(number, self._table.finish(admitted, signature))
            except SignerRefused as refusal:
                answer = protocol.Refused(number, refusal.reason)
        self.channel.send(protocol.encode(answer))
