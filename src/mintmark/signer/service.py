"""The signer's side of its channels: one for control, one for each worker."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mintmark.core import jwk
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.key import KeyMode
from mintmark.errors import SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.signer import HardeningReport, Refusal, SignerRefused, SignerStatus, TokenState
from mintmark.signer import protocol
from mintmark.signer.channel import Channel
from mintmark.signer.keys import KeyTable, PrivateHalf, Where, new_private_key
from mintmark.signer.sealed import Seals
from mintmark.signer.threads import Threads
from mintmark.signer.worker import WorkerLine
from mintmark.units import Issuer, Kid

if TYPE_CHECKING:
    # It needs python-pkcs11, which only those have who have an HSM.
    from mintmark.signer.token import Token

log: Final = logging.getLogger("mintmark.signer")

TOKEN_THREADS: Final = 4
"""Signatures that a token makes at once. It is waited for, not computed here, so processors do not count."""
_FIRST_TRY: Final = 5.0
"""Seconds for which the first status waits for the token."""

_KEPT: Final = 600.0
"""Seconds for which a key that was made too late is kept: other nodes sweep what is an hour old."""

_Finish: TypeAlias = Callable[[], protocol.ControlAnswer]
"""What is left to do in the loop once a thread has done the slow part of a request."""
_Wish: TypeAlias = tuple[KeyMode, Issuer, Algorithm, frozenset[str]]
"""What a key is asked for."""


class SignerService:
    """Serves one key table to one control channel and any number of workers, in the running loop.

    ``rsa_bits`` is the size of new RSA keys, 2048 or 3072; ``threads`` how many RSA signatures run at
    once; ``seals`` gives it mode ``shared``, and ``token`` mode ``hsm``; ``hardening`` is what ``status``
    reports of this process.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rsa_bits: int,
        threads: int,
        seals: Seals | None = None,
        token: "Token | None" = None,
        hardening: HardeningReport = (),
    ) -> None:
        if rsa_bits not in {2048, 3072}:
            raise ValueError("RSA keys have 2048 or 3072 bits here")
        self._rsa_bits = rsa_bits
        self._hardening = hardening
        self._clock = clock
        self._table = KeyTable(clock)
        self._signing: Threads[bytes] = Threads(threads, "sign")
        # A thread of its own: a key takes as long to make as a hundred signatures.
        self._making: Threads[_Finish] = Threads(1, "generate")
        self._seals = seals
        self._token = token
        # Who waits for a device keeps nobody else waiting.
        self._token_signing: Threads[bytes] = Threads(0 if token is None else TOKEN_THREADS, "token-sign")
        self._reaching = False
        self._telling: asyncio.Task[None] | None = None
        self._unanswered: list[tuple[Channel, int]] | None = None
        self._token_tasks: Threads[_Finish] = Threads(0 if token is None else 1, "token")
        if token is not None:
            self._reach(token)
            # What is known before the first try is nothing; but a module that hangs is no answer either.
            self._unanswered = []
            self._telling = asyncio.create_task(self._tell_anyway(clock))
        self._asked: dict[_Wish, bool] = {}
        self._kept: dict[_Wish, tuple[protocol.Generated, float]] = {}
        self._loading: dict[int, protocol.Load] = {}
        self._workers: set[WorkerLine] = set()
        self._control: Channel | None = None

    def serve_control(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        """Take orders on ``sock`` until it ends, which ends every worker's channel too."""

        def ended(why: str) -> None:
            log.info("control channel ended: %s", why)
            for worker in tuple(self._workers):
                worker.channel.close("the signer ends")
            on_end()

        self._control = Channel(
            sock, on_frame=self._obey, on_end=ended, limit=protocol.MAX_ORDER, descriptors=True
        )

    def serve_worker(self, sock: socket.socket) -> None:
        """Sign what comes on ``sock`` until it ends."""
        pools = {Where.THREAD: self._signing, Where.DEVICE: self._token_signing}
        worker = WorkerLine(sock, self._table, pools, self._workers.discard)
        self._workers.add(worker)
        log.info("worker channel attached, %d in all", len(self._workers))

    def close(self) -> None:
        """End every channel and thread; the keys go with it."""
        if self._control is not None:
            self._control.close("the signer ends")
        if self._telling is not None:
            self._telling.cancel()
        self._signing.close()
        self._making.close()
        self._token_signing.close()
        self._token_tasks.close()
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
            case protocol.Generate():
                self._table.check_room(request.typs)
                if request.mode not in self._modes():
                    raise SignerRefused(Refusal.NO_CUSTODY)
                if request.mode is KeyMode.HSM and self._token is not None:
                    return self._ask_token(control, self._token, request)
                self._submit(control, request, partial(self._make, request))
                return None
            case protocol.Load(id):
                return protocol.Done(id) if self._is_loaded(control, request) else None
            case protocol.Reseal():
                if self._seals is None:
                    raise SignerRefused(Refusal.NO_CUSTODY)
                self._submit(control, request, partial(self._reseal, self._seals, request))
                return None
            case protocol.Extend(id, kid, max_exp, lease_until):
                self._table.extend(kid, max_exp=max_exp, lease_until=lease_until)
                log.debug("extended %s: max_exp %d, lease_until %d", kid, max_exp, lease_until)
                return protocol.Done(id)
            case protocol.Forget(id, kid, destroy):
                self._table.forget(kid)
                # What is being loaded just now would come back to life after the answer.
                for number in [number for number, load in self._loading.items() if load.kid == kid]:
                    del self._loading[number]
                log.info("forgot %s", kid)
                if destroy and self._token is not None:
                    self._in_token(control, request, partial(_destroy, self._token, request))
                    return None
                return protocol.Done(id)
            case protocol.Sweep(id):
                if self._token is None:
                    return protocol.Swept(id, ())
                keep = request.known | {key.kid for key in self._table.status()}
                self._in_token(control, request, partial(_sweep, self._token, request, keep))
                return None
            case protocol.Report(id):
                if self._token is not None:
                    self._reach(self._token)
                if self._unanswered is not None:
                    self._unanswered.append((control, id))
                    return None
                return self._report(id)
            case protocol.Attach(id):
                descriptor = control.take_descriptor()
                if descriptor is None:
                    control.close("a worker's descriptor is missing")
                    return None
                self.serve_worker(socket.socket(fileno=descriptor))
                return protocol.Done(id)

    def _report(self, number: int) -> protocol.Reported:
        keys, channels = self._table.status(), len(self._workers)
        state = None if self._token is None else self._token.state
        return protocol.Reported(
            number, SignerStatus(os.getpid(), keys, channels, self._hardening, self._modes(), state)
        )

    def _reach(self, token: "Token") -> None:
        """Look for a token that is away; one try at a time, for one may take long."""
        if token.state is TokenState.AWAY and not self._reaching:
            self._reaching = True
            self._token_tasks.submit(partial(_connected, token), self._reached)

    def _reached(self, _: _Finish | Exception) -> None:
        self._reaching = False
        self._tell()

    async def _tell_anyway(self, clock: Clock) -> None:
        await clock.sleep(_FIRST_TRY)
        self._tell()

    def _tell(self) -> None:
        """Answer who asked for the status before anything was known of the token."""
        if self._telling is not None:
            self._telling.cancel()
        waiting, self._unanswered = self._unanswered or [], None
        for control, number in waiting:
            control.send(protocol.encode(self._report(number)))

    def _modes(self) -> frozenset[KeyMode]:
        given = {KeyMode.OWN: self, KeyMode.SHARED: self._seals, KeyMode.HSM: self._token}
        return frozenset(mode for mode, needed in given.items() if needed is not None)

    def _submit(self, control: Channel, request: protocol.ControlRequest, job: Callable[[], _Finish]) -> None:
        """Run ``job`` in a thread, then what it gave in the loop; that makes the answer."""
        self._making.submit(job, partial(self._answer, control, request))

    def _in_token(
        self, control: Channel, request: protocol.ControlRequest, job: Callable[[], _Finish]
    ) -> None:
        """The same in the thread that talks to the token."""
        self._token_tasks.submit(job, partial(self._answer, control, request))

    def _answer(self, control: Channel, request: protocol.ControlRequest, done: _Finish | Exception) -> None:
        answer: protocol.ControlAnswer
        try:
            if isinstance(done, Exception):
                raise done
            answer = done()
        except SignerRefused as refusal:
            answer = protocol.Refused(request.id, refusal.reason)
        except SignerUnavailable:
            # The token's; it was said once, when it went away.
            answer = protocol.Failed(request.id)
        except Exception as error:  # noqa: BLE001  Control is told that it failed; the rest stays here.
            log.error("%s failed: %s", type(request).__name__.lower(), type(error).__qualname__)
            answer = protocol.Failed(request.id)
        self._loading.pop(request.id, None)
        if isinstance(request, protocol.Generate):
            given_up = self._asked.pop(_wish(request), False)
            if given_up and isinstance(answer, protocol.Generated):
                self._kept[_wish(request)] = (answer, self._clock.monotonic() + _KEPT)
        control.send(protocol.encode(answer))

    def _make(self, request: protocol.Generate) -> _Finish:
        """In a thread: a key, sealed where its mode says so."""
        issuer, alg, sealed = request.issuer, request.alg, None
        private = new_private_key(alg, self._rsa_bits)
        public = jwk.public_key(private.public_key(), alg)
        if request.mode is KeyMode.SHARED and self._seals is not None:
            sealed = self._seals.seal(private, kid=public.kid, issuer=issuer, alg=alg)
        return partial(self._made, request, public, private, sealed)

    def _ask_token(
        self, control: Channel, token: "Token", request: protocol.Generate
    ) -> protocol.ControlAnswer | None:
        """Have the token make a key, one at a time of a kind.

        Control asks again once it has given up. A token that hangs would make as many keys as it was asked
        for when it is back, and nobody would know them; so the first one is kept for the next who asks.
        """
        wish = _wish(request)
        kept, until = self._kept.pop(wish, (None, 0.0))
        if kept is not None and self._clock.monotonic() < until:
            return msgspec.structs.replace(kept, id=request.id)
        if wish in self._asked:
            self._asked[wish] = True
            return protocol.Failed(request.id)
        self._asked[wish] = False
        self._in_token(control, request, partial(self._make_in_token, token, request))
        return None

    def _make_in_token(self, token: "Token", request: protocol.Generate) -> _Finish:
        """In a thread: a key that does not leave the token."""
        public, private = token.generate(issuer=request.issuer, alg=request.alg)
        return partial(self._made, request, public, private, None)

    def _made(
        self, request: protocol.Generate, public: PublicKey, private: PrivateHalf, sealed: bytes | None
    ) -> protocol.ControlAnswer:
        self._table.add(public, private, issuer=request.issuer, typs=request.typs, mode=request.mode)
        log.info("made %s for %s", public.kid, public.alg)
        spki = public.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return protocol.Generated(request.id, spki, sealed)

    def _is_loaded(self, control: Channel, request: protocol.Load) -> bool:
        """Whether it is here; where it is not, begin to load it."""
        if request.mode is KeyMode.OWN or request.mode not in self._modes():
            raise SignerRefused(Refusal.NO_CUSTODY)
        if self._table.holds(request.kid, issuer=request.issuer, alg=request.alg, typs=request.typs):
            return True
        self._table.check_room(request.typs)
        if request.mode is KeyMode.HSM and self._token is not None:
            self._loading[request.id] = request
            self._in_token(control, request, partial(self._find, self._token, request))
            return False
        if self._seals is None or request.sealed is None:
            raise SignerRefused(Refusal.SEALED)
        self._loading[request.id] = request
        self._submit(control, request, partial(self._open, self._seals, request.sealed, request))
        return False

    def _open(self, seals: Seals, sealed: bytes, request: protocol.Load) -> _Finish:
        """In a thread: the key in ``sealed``."""
        public, private = seals.open(sealed, kid=request.kid, issuer=request.issuer, alg=request.alg)
        return partial(self._opened, request, public, private)

    def _find(self, token: "Token", request: protocol.Load) -> _Finish:
        """In a thread: the key in the token."""
        public, private = token.open(kid=request.kid, issuer=request.issuer, alg=request.alg)
        return partial(self._opened, request, public, private)

    def _opened(
        self, request: protocol.Load, public: PublicKey, private: PrivateHalf
    ) -> protocol.ControlAnswer:
        if request.id not in self._loading:
            raise SignerRefused(Refusal.UNKNOWN_KEY)
        if not self._table.holds(request.kid, issuer=request.issuer, alg=request.alg, typs=request.typs):
            self._table.add(public, private, issuer=request.issuer, typs=request.typs, mode=request.mode)
            log.info("loaded %s for %s", public.kid, public.alg)
        return protocol.Done(request.id)

    def _reseal(self, seals: Seals, request: protocol.Reseal) -> _Finish:
        """In a thread: the other seal."""
        sealed = seals.reseal(request.sealed, kid=request.kid, issuer=request.issuer, alg=request.alg)
        return lambda: protocol.Resealed(request.id, sealed)


def _wish(request: protocol.Generate) -> _Wish:
    return request.mode, request.issuer, request.alg, request.typs


def _connected(token: "Token") -> _Finish:
    token.connect()
    return lambda: protocol.Done(0)


def _destroy(token: "Token", request: protocol.Forget) -> _Finish:
    with contextlib.suppress(SignerUnavailable):
        token.destroy(request.kid)
    return lambda: protocol.Done(request.id)


def _sweep(token: "Token", request: protocol.Sweep, keep: frozenset[Kid]) -> _Finish:
    kids = token.sweep(keep=keep, issuer=request.issuer, older_than=request.older_than)
    return lambda: protocol.Swept(request.id, kids)
