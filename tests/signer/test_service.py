"""What each channel of the signer may do: signer.service, over real sockets in this process."""

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.errors import SignerUnavailable
from mintmark.signer import protocol, service
from mintmark.signer.client import SignerClient
from mintmark.signer.local import LocalSigner
from mintmark.signer.service import SignerService
from mintmark.signer.worker import MAX_IN_FLIGHT
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com")
EXP = NumericDate(1_800_000_060)
PAYLOAD = msgspec.json.encode({"iss": ISSUER, "exp": EXP})


@pytest.fixture
async def signer() -> AsyncIterator[LocalSigner]:
    made = LocalSigner(clock=FakeClock())
    yield made
    made.close()


async def ready(signer: LocalSigner, alg: Algorithm = Algorithm.ES256) -> Kid:
    key = (await signer.generate(issuer=ISSUER, alg=alg, typs=frozenset({"at+jwt"}))).public
    await signer.extend(key.kid, max_exp=EXP, lease_until=EXP)
    return key.kid


async def read_to_end(sock: socket.socket) -> bytes:
    """Everything that comes until the other side closes."""
    sock.setblocking(False)
    received, loop = b"", asyncio.get_running_loop()
    while True:
        try:
            chunk = await asyncio.wait_for(loop.sock_recv(sock, 65_536), 20)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4) + message


@pytest.mark.parametrize(
    "request_",
    [
        lambda _: protocol.Generate(1, ISSUER, Algorithm.ES256, frozenset({"at+jwt"}), KeyMode.OWN),
        lambda kid: protocol.Load(
            1, kid, ISSUER, Algorithm.ES256, frozenset({"at+jwt"}), KeyMode.SHARED, b""
        ),
        lambda kid: protocol.Reseal(1, kid, ISSUER, Algorithm.ES256, b""),
        lambda kid: protocol.Extend(1, kid, NumericDate(2**40), NumericDate(2**40)),
        lambda kid: protocol.Forget(1, kid, True),
        lambda _: protocol.Sweep(1, frozenset(), ISSUER, Seconds(0)),
        lambda _: protocol.Report(1),
        lambda _: protocol.Attach(1),
    ],
    ids=["generate", "load", "reseal", "extend", "forget", "sweep", "report", "attach"],
)
async def test_worker_cannot_give_orders(signer, request_):
    """A worker's channel that tries anything but sign is closed, and nothing has changed."""
    kid = await ready(signer)
    before = (await signer.status()).keys
    with await signer.attach() as worker:
        worker.send(framed(protocol.encode(request_(kid))))
        assert await read_to_end(worker) == b""
    assert (await signer.status()).keys == before
    assert await signer.sign(kid, "at+jwt", PAYLOAD)


async def test_worker_cannot_give_orders_by_sending_a_descriptor(signer):
    """An attach with a descriptor on a worker's channel opens no channel."""
    kid = await ready(signer)
    ours, theirs = socket.socketpair()
    with ours, theirs, await signer.attach() as worker:
        socket.send_fds(worker, [framed(protocol.encode(protocol.Attach(1)))], [theirs.fileno()])
        assert await read_to_end(worker) == b""
        theirs.close()
        ours.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(ours, 1) == b""
    assert await signer.sign(kid, "at+jwt", PAYLOAD)


@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_garbage_costs_its_own_channel_only(garbage, frame):
    """Whatever bytes a worker sends, whole frames or not, keys and other workers stay as they are."""

    async def run() -> None:
        signer = LocalSigner(clock=FakeClock(), threads=1)
        try:
            kid = await ready(signer)
            with await signer.attach() as worker:
                worker.send(framed(garbage) if frame else garbage)
                worker.shutdown(socket.SHUT_WR)
                await read_to_end(worker)
            assert await signer.sign(kid, "at+jwt", PAYLOAD)
            (held,) = (await signer.status()).keys
            assert (held.kid, held.max_exp) == (kid, EXP)
        finally:
            signer.close()

    asyncio.run(run())


async def test_dripping_worker_does_not_delay_another(signer):
    """While one worker sends a frame byte by byte, another signs between any two bytes."""
    kid = await ready(signer)
    frame = framed(protocol.encode(protocol.Sign(7, kid, "at+jwt", PAYLOAD)))
    with await signer.attach() as worker:
        for byte in frame:
            worker.send(bytes([byte]))
            assert await signer.sign(kid, "at+jwt", PAYLOAD)
        worker.shutdown(socket.SHUT_WR)
        answer = protocol.decode_worker_answer((await read_to_end(worker))[4:])
        assert answer.id == 7


async def test_worker_that_dies_with_signatures_under_way_harms_nobody(signer):
    """Answers to a worker that is gone go nowhere."""
    kid = await ready(signer, Algorithm.RS256)
    worker = await signer.attach()
    for number in range(50):
        worker.send(framed(protocol.encode(protocol.Sign(number, kid, "at+jwt", PAYLOAD))))
    worker.close()
    assert await signer.sign(kid, "at+jwt", PAYLOAD)
    while (await signer.status()).channels > 1:
        pass  # Each round trip is a turn in which the signer may notice.


async def test_flooding_worker_gets_every_answer(signer):
    """More requests than may be under way at once are held back, and answered all the same."""
    kid = await ready(signer, Algorithm.RS256)
    client = SignerClient(await signer.attach(), clock=FakeClock())
    tokens = await asyncio.gather(*(client.sign(kid, "at+jwt", PAYLOAD) for _ in range(3 * MAX_IN_FLIGHT)))
    assert len(tokens) == 3 * MAX_IN_FLIGHT
    client.close()


@pytest.mark.parametrize(
    "message",
    [b"junk", protocol.encode(protocol.Sign(1, Kid("k"), "x", b"")), protocol.encode(protocol.Attach(1))],
)
async def test_nonsense_from_control_ends_the_signer(message):
    """A control channel that sends what control never sends is not control's any more: everything ends."""
    made = SignerService(clock=FakeClock(), rsa_bits=2048, threads=1)
    ended = asyncio.Event()
    ours, theirs = socket.socketpair()
    with ours:
        made.serve_control(theirs, ended.set)
        ours.send(framed(message))
        await asyncio.wait_for(ended.wait(), 20)
        assert await read_to_end(ours) == b""
    made.close()


async def test_workers_end_with_control(signer):
    """When control's channel closes, every worker's does: nothing signs without a control process."""
    kid = await ready(signer)
    client = SignerClient(await signer.attach(), clock=FakeClock())
    signer._control.close()
    assert await client.ended()
    with pytest.raises(SignerUnavailable):
        await signer.sign(kid, "at+jwt", PAYLOAD)
    client.close()


async def test_rsa_signatures_do_not_hold_up_the_others(signer):
    """A signature on a curve that is asked for after many of RSA is answered before the last of them."""
    rsa, curve = await ready(signer, Algorithm.RS256), await ready(signer)
    many = SignerClient(await signer.attach(), clock=FakeClock())
    slow = [asyncio.create_task(many.sign(rsa, "at+jwt", PAYLOAD)) for _ in range(200)]
    await asyncio.sleep(0)
    assert await signer.sign(curve, "at+jwt", PAYLOAD)
    assert not all(task.done() for task in slow)
    await asyncio.gather(*slow)
    many.close()


async def test_key_is_made_beside_signatures_not_before_them(signer):
    """An extend or a signature that is asked for after a slow generate is answered before it."""
    kid = await ready(signer)
    slow = [
        asyncio.create_task(signer.generate(issuer=ISSUER, alg=Algorithm.RS256, typs=frozenset({"at+jwt"})))
        for _ in range(8)
    ]
    await asyncio.sleep(0)
    await signer.extend(kid, max_exp=EXP, lease_until=EXP)
    assert await signer.sign(kid, "at+jwt", PAYLOAD)
    assert not all(task.done() for task in slow)
    await asyncio.gather(*slow)


@pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
async def test_signature_that_fails_is_unavailable_and_says_nothing(signer, alg, monkeypatch, caplog):
    """LG2: a fault in the arithmetic is SignerUnavailable for its caller alone, and a type in the log."""
    kid = await ready(signer, alg)

    def fail(*_: object) -> bytes:
        raise ValueError("canary")

    with monkeypatch.context() as broken:
        broken.setattr(jws, "sign", fail)
        with pytest.raises(SignerUnavailable) as failed:
            await signer.sign(kid, "at+jwt", PAYLOAD)
    assert type(failed.value) is SignerUnavailable
    assert "a signature failed: ValueError" in caplog.text
    assert "canary" not in caplog.text
    assert await signer.sign(kid, "at+jwt", PAYLOAD)


async def test_key_that_cannot_be_made_is_unavailable_and_says_nothing(signer, monkeypatch, caplog):
    """LG2: a fault in making a key is SignerUnavailable, leaves no key, and a type in the log."""

    def fail(*_: object) -> None:
        raise MemoryError("canary")

    with monkeypatch.context() as broken:
        broken.setattr(service, "new_private_key", fail)
        with pytest.raises(SignerUnavailable):
            await signer.generate(issuer=ISSUER, alg=Algorithm.ES256, typs=frozenset({"at+jwt"}))
    assert "generate failed: MemoryError" in caplog.text
    assert "canary" not in caplog.text
    assert (await signer.status()).keys == ()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_channels_work_in_either_event_loop(run):
    """HTTP workers run uvloop, tests and tools asyncio's own loop: both ends work in both."""

    async def sign_and_end() -> None:
        signer = LocalSigner(clock=FakeClock())
        kids = [await ready(signer, alg) for alg in (Algorithm.RS256, Algorithm.ES256)]
        client = SignerClient(await signer.attach(), clock=FakeClock())
        tokens = await asyncio.gather(*(client.sign(kid, "at+jwt", PAYLOAD) for kid in kids * 50))
        assert len(tokens) == 100
        signer.close()
        assert await client.ended()
        client.close()

    run(sign_and_end())


def test_rsa_keys_have_one_of_two_sizes():
    """KY1: a size that is no setting of ours is refused before anything is made."""

    async def run() -> None:
        for bits in (512, 1024, 2047, 4096):
            with pytest.raises(ValueError, match="2048 or 3072"):
                SignerService(clock=FakeClock(), rsa_bits=bits, threads=1)

    asyncio.run(run())
