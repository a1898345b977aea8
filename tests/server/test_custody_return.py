"""A PKCS#11 token that is back after longer than a lease: the node signs then, not at its next look."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.test_custody import TIMING
from tests.server.test_custody_token import Place
from tests.softhsm import soft_hsm

from mintmark.core.events import EventName
from mintmark.core.key import KeyState
from mintmark.errors import SignerUnavailable


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


async def test_token_that_is_back_is_signed_with_in_the_next_round(place: Place):
    """The lease of its key ended meanwhile: once the signer reaches the token, the next round renews it."""
    node, world = place.node(), place.world
    await world.work(4)
    key = await world.key(KeyState.ACTIVE)
    place.found.take_away()
    with pytest.raises(SignerUnavailable):
        await node.can_sign(key.kid)
    await world.work(2 * TIMING.lease, every=4)
    world.clock.advance(10)
    await world.round()
    assert node.audit.counts[EventName.HSM_LOST] > 0
    place.found.bring_back()
    for _ in range(4):
        # A try that was under way meanwhile counts, and another one is made a second later.
        world.clock.advance(1.5)
        with contextlib.suppress(SignerUnavailable):
            place.token.connect()
            break
    await world.round()
    assert node.audit.counts[EventName.HSM_RESTORED] == 1
    assert await node.can_sign(key.kid)
