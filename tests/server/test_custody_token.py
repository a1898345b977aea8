"""Rotation where a PKCS#11 token has the key, on SoftHSM: it is lost, it is back, and what is left in it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.test_custody import ISSUER, OWN, TIMING, Node, World
from tests.softhsm import SoftHsm, soft_hsm

from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.jwk import PublicKey
from mintmark.core.key import KeyKind, KeyMode, KeyState
from mintmark.core.keyring import SILENT_FOR
from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import MadeKey
from mintmark.server.emergency import request_rotation, revoke_key
from mintmark.signer.cryptoki import Module
from mintmark.signer.token import Token, TokenKey
from mintmark.units import Issuer, Kid, NodeId, Seconds

IN_TOKEN = KeyKind(KeyMode.HSM, Algorithm.ES256)


class Place:
    """A token, and nodes that reach it through one module."""

    def __init__(self, found: SoftHsm) -> None:
        self.found = found
        self.world = World()
        self.token = Token(
            Module(found.module), label=found.label, pin=found.pin, rsa_bits=2048, clock=self.world.clock
        )

        self.token.connect()
        self._waiting = [
            Node(self.world, NodeId(f"node-{number}"), (), IN_TOKEN, token=self.token) for number in range(3)
        ]
        self.world.signers += [node.signer for node in self._waiting]

    async def open(self) -> None:
        """A signer that did not reach for the token itself waits a while before it says how that is."""
        await self.world.store.open()
        asked = asyncio.gather(*(node.signer.status() for node in self._waiting))
        for _ in range(10):
            await asyncio.sleep(0)
        self.world.clock.advance(5)
        await asked

    def node(self) -> Node:
        node = self._waiting.pop()
        self.world.nodes.append(node)
        return node

    def left(self, *known: Kid) -> set[Kid]:
        """What the token has beside ``known``; it is destroyed by asking."""
        return set(self.token.sweep(keep=frozenset(known), issuer=ISSUER, older_than=Seconds(-1)))


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    found = soft_hsm(tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    made = Place(found)
    await made.open()
    yield made
    for signer in made.world.signers:
        signer.close()
    made.token.close()


async def test_nodes_sign_with_one_key_of_the_token(place: Place):
    """The second node has it at once; after a power cut it is there, and no key is begun."""
    first, second = place.node(), place.node()
    await place.world.work(4)
    key = await place.world.key(KeyState.ACTIVE)
    assert key.kind() == IN_TOKEN
    assert await first.can_sign(key.kid)
    assert await second.can_sign(key.kid)
    place.world.nodes.clear()
    place.world.clock.advance(2 * TIMING.lease)
    back = place.node()
    await place.world.work(4)
    assert (await place.world.key(KeyState.ACTIVE)).kid == key.kid
    assert await back.can_sign(key.kid)


async def test_a_token_that_is_lost_is_an_alarm_and_its_return_needs_no_restart(place: Place):
    """The node says that it cannot sign, begins nothing, and goes on with the same key once it can."""
    node = place.node()
    await place.world.work(4)
    key = await place.world.key(KeyState.ACTIVE)
    place.found.take_away()
    with pytest.raises(SignerUnavailable):
        await node.can_sign(key.kid)
    await place.world.work(2 * TIMING.lease, every=4)
    assert node.audit.counts[EventName.HSM_LOST] > 0
    assert await place.world.modes(node) == {KeyMode.OWN}
    assert [key.kid for key in (await place.world.ring()).keys] == [key.kid]
    place.found.bring_back()
    # The signer reaches for it in a thread, and is asked every ten seconds of the test's time.
    for _ in range(1_000):
        await place.world.work(10, every=10)
        if node.audit.counts[EventName.HSM_RESTORED]:
            break
        await asyncio.sleep(0.05)
    assert node.audit.counts[EventName.HSM_RESTORED] == 1
    assert (await place.world.key(KeyState.ACTIVE)).kid == key.kid
    assert await node.can_sign(key.kid)


async def test_a_token_that_hangs_ends_no_other_key(place: Place, monkeypatch: pytest.MonkeyPatch):
    """After a switch away from a token that answers nothing, the node's own key is renewed and signs; a round
    waits for the token once, and not so long that the node's heartbeat is missed."""
    node, world = place.node(), place.world
    await world.work(4)
    former = await world.key(KeyState.ACTIVE)
    await world.switch(OWN)
    await world.work(TIMING.lead + 20, every=4)
    key = await world.key(KeyState.ACTIVE)
    assert key.kind() == OWN
    reached, back = threading.Event(), threading.Event()

    def hang(kid: Kid) -> None:
        reached.set()
        back.wait(60)
        Token.destroy(place.token, kid)

    monkeypatch.setattr(place.token, "destroy", hang)
    world.clock.advance(TIMING.lease)
    late = asyncio.create_task(node.round())
    try:
        assert await asyncio.to_thread(reached.wait, 60)
        await world.clock.armed(within=SILENT_FOR - 3)
        world.clock.advance(SILENT_FOR - 3)
        await late
        await world.work(2 * TIMING.lease, every=4)
        assert await node.can_sign(key.kid)
        assert not await node.can_sign(former.kid)
    finally:
        back.set()


async def test_a_token_that_hangs_makes_one_key_however_often_it_is_asked(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """Whoever asks while a key is made is refused at once; the key is for who asks after that, and no other
    is in the signer or in the token."""
    signer = place.node().signer
    reached, back = threading.Event(), threading.Event()

    def hang(*, issuer: Issuer, alg: Algorithm) -> tuple[PublicKey, TokenKey]:
        reached.set()
        back.wait(60)
        return Token.generate(place.token, issuer=issuer, alg=alg)

    async def ask() -> MadeKey:
        return await signer.generate(
            issuer=ISSUER, alg=Algorithm.ES256, typs=frozenset({"at+jwt"}), mode=KeyMode.HSM
        )

    monkeypatch.setattr(place.token, "generate", hang)
    first = asyncio.create_task(ask())
    try:
        assert await asyncio.to_thread(reached.wait, 60)
        first.cancel()
        for _ in range(3):
            with pytest.raises(SignerUnavailable):
                await ask()
    finally:
        back.set()
    for _ in range(6_000):
        with contextlib.suppress(SignerUnavailable):
            made = await ask()
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the token made no key")
    assert [key.kid for key in (await signer.status()).keys] == [made.public.kid]
    assert place.left(made.public.kid) == set()
    assert (await ask()).public.kid != made.public.kid


async def test_a_key_that_was_made_too_late_is_not_kept_until_others_sweep_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """A key that nobody asked for again for an hour may be gone from the token: another one is made."""
    signer = place.node().signer
    reached, back, made = threading.Event(), threading.Event(), threading.Event()
    late: list[Kid] = []

    def hang(*, issuer: Issuer, alg: Algorithm) -> tuple[PublicKey, TokenKey]:
        reached.set()
        back.wait(60)
        public, private = Token.generate(place.token, issuer=issuer, alg=alg)
        late.append(public.kid)
        made.set()
        return public, private

    async def ask() -> MadeKey:
        return await signer.generate(
            issuer=ISSUER, alg=Algorithm.ES256, typs=frozenset({"at+jwt"}), mode=KeyMode.HSM
        )

    monkeypatch.setattr(place.token, "generate", hang)
    first = asyncio.create_task(ask())
    try:
        assert await asyncio.to_thread(reached.wait, 60)
        first.cancel()
        with pytest.raises(SignerUnavailable):
            await ask()
    finally:
        back.set()
    assert await asyncio.to_thread(made.wait, 60)
    for _ in range(6_000):
        if (await signer.status()).keys:
            break
        await asyncio.sleep(0.01)
    place.world.clock.advance(3_600)
    assert (await ask()).public.kid not in late[:1]


async def test_what_may_not_sign_any_more_is_destroyed_in_the_token(place: Place):
    """A superseded key goes when its lease has ended, a revoked one at once, whoever withdrew it."""
    place.node()
    place.node()
    await place.world.work(4)
    first = await place.world.key(KeyState.ACTIVE)
    await request_rotation(place.world.store.keyring, ISSUER)
    await place.world.work(TIMING.lead + 20, every=4)
    second = await place.world.key(KeyState.ACTIVE)
    await place.world.work(TIMING.lease + 8, every=4)
    assert first.kid != second.kid
    assert place.left(second.kid) == set()
    assert await revoke_key(place.world.store.keyring, ISSUER, second.kid, reason="leaked", timing=TIMING)
    await place.world.work(4)
    third = await place.world.key(KeyState.ACTIVE)
    assert place.left(third.kid) == set()


async def test_what_a_crash_left_in_the_token_is_swept_within_the_hour(place: Place):
    """F01: a key that was made and never came into the ring; the key that signs stays."""
    node = place.node()
    await place.world.work(4)
    orphan, _ = place.token.generate(issuer=ISSUER, alg=Algorithm.ES256)
    key = await place.world.key(KeyState.ACTIVE)
    place.world.clock.advance(2 * 3600)
    await place.world.work(4)
    assert node.audit.counts[EventName.KEY_SWEPT] == 1
    assert place.left(key.kid) == set()
    assert orphan.kid != key.kid
    assert await node.can_sign(key.kid)


async def test_the_loser_of_a_race_leaves_nothing_in_the_token(place: Place):
    """Two nodes prepare in one instant: the token has one key, and both sign with it."""
    nodes = [place.node(), place.node()]
    await asyncio.gather(*(node.rotation.round() for node in nodes))
    await place.world.work(4)
    key = await place.world.key(KeyState.ACTIVE)
    assert place.left(key.kid) == set()
    for node in nodes:
        assert await node.can_sign(key.kid)
