"""Minting: claims first, signature later, whatever happens to keys in between."""

import asyncio

import pytest
from tests.http.surface import Surface, surface

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import parse_jwk_set
from mintmark.core.minting import TokenRequest
from mintmark.core.verification import Policy, Trust, Trusted, verify
from mintmark.errors import NotReady, SignerUnavailable
from mintmark.server.emergency import revoke_key
from mintmark.server.issuing import Issuing
from mintmark.testing.clock import FakeClock
from mintmark.units import ClientId, NumericDate, Sub


def issuing_of(node: Surface) -> Issuing:
    return node.services.sessions._issuing


def request(node: Surface, **changes: object) -> TokenRequest:
    members = {
        "iss": node.issuer,
        "sub": Sub("usr_alice"),
        "client_id": ClientId("spa"),
        "aud": ("orders",),
        "scope": ("orders:read",),
    }
    return TokenRequest(**(members | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_verifier_accepts_what_is_issued(algorithm):
    """Each algorithm's token passes every check of the verifier, with the key set that is served."""
    async with surface(algorithm=algorithm) as node:
        issuing = issuing_of(node)
        issued = await issuing.sign(issuing.plan(request(node)), ("orders:read",))
        keys = parse_jwk_set((await node.http.get("/.well-known/jwks.json")).content).keys
        policy = Policy(issuer=node.issuer, audiences=frozenset({"orders"}), thumbprint_kids=True)
        trusted = Trusted([Trust(policy=policy, keys={key.kid: key for key in keys})])
        token = verify(issued.access_token, trusted, node.clock.now())
        assert (token.sub, token.client_id, token.aud) == ("usr_alice", "spa", ("orders",))
        assert token.kid == node.kid
        assert token.exp == node.clock.now() + issued.expires_in


async def test_times_are_fixed_by_the_plan(node: Surface):
    """A signature that comes late changes no claim: ``exp`` is what the session's row was told (R5)."""
    issuing = issuing_of(node)
    planned = issuing.plan(request(node))
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(50)
    issued = await issuing.sign(planned, ())
    assert jws.parse(issued.access_token).payload == planned.minting.payload
    assert issued.expires_in == planned.minting.exp - node.clock.now()


async def test_key_that_changed_after_the_plan_does_not_matter(node: Surface):
    """A token planned under a key that was superseded is signed by the key that is active now."""
    issuing = issuing_of(node)
    planned = issuing.plan(request(node))
    old, new = node.kid, await node.add_key()
    await node.signer.forget(old)
    clock = node.clock
    assert isinstance(clock, FakeClock)
    signing = asyncio.ensure_future(issuing.sign(planned, ()))
    await clock.armed(within=0.01)
    clock.advance(0.01)
    assert jws.parse((await signing).access_token).header.kid == new


async def test_revoked_key_signs_nothing_more(node: Surface):
    """Between plan and signature the key is revoked: the request ends as 503, not with its signature (K7)."""
    issuing = issuing_of(node)
    planned = issuing.plan(request(node))
    await revoke_key(node.store.keyring, node.issuer, node.kid, reason="test", timing=node.services.timing)
    await node.signer.forget(node.kid)
    clock = node.clock
    assert isinstance(clock, FakeClock)
    signing = asyncio.ensure_future(issuing.sign(planned, ()))
    await clock.armed(within=0.01)
    clock.advance(0.01)
    with pytest.raises(NotReady):
        await signing


async def test_refusal_that_lasts_ends_within_two_seconds(node: Surface):
    """A signer that goes on refusing is SignerUnavailable after two seconds, not an endless loop."""
    issuing = issuing_of(node)
    planned = issuing.plan(request(node))
    await node.signer.forget(node.kid)
    clock = node.clock
    assert isinstance(clock, FakeClock)
    signing = asyncio.ensure_future(issuing.sign(planned, ()))
    begun = clock.monotonic()
    while not signing.done():
        clock.advance(0.05)
        for _ in range(20):
            await asyncio.sleep(0)
    with pytest.raises(SignerUnavailable):
        await signing
    assert clock.monotonic() - begun < 2.5


async def test_refusal_that_no_key_explains_ends_at_once(node: Surface):
    """A payload that no key may sign is refused without another try."""
    issuing = issuing_of(node)
    planned = issuing.plan(request(node, iss="https://other.example.com"))
    before = node.services.audit.counts.copy()
    with pytest.raises(SignerUnavailable):
        await issuing.sign(planned, ())
    assert node.services.audit.counts == before


@pytest.mark.parametrize("ahead", [-6, -5, 0, 35, 36])
async def test_nothing_is_planned_that_a_revocation_by_time_denies(node: Surface, ahead):
    """While ``iat`` would be at or before ``not_before`` minting waits, and says to the second how long."""
    issuing, clock = issuing_of(node), node.clock
    assert isinstance(clock, FakeClock)
    not_before = NumericDate(clock.now() + ahead)
    if ahead < -5:
        assert issuing.plan(request(node), not_before=not_before).minting.iat > not_before
        return
    with pytest.raises(NotReady) as refused:
        issuing.plan(request(node), not_before=not_before)
    assert refused.value.retry_after == ahead + 6
    clock.advance(refused.value.retry_after - 1)
    with pytest.raises(NotReady):
        issuing.plan(request(node), not_before=not_before)
    clock.advance(1)
    await node.services.ring.refresh()
    assert issuing.plan(request(node), not_before=not_before).minting.iat == not_before + 1


@pytest.mark.parametrize(("left", "longest"), [(60, 60), (1, 1), (0, 1), (-5, 1), (10_000, 900)])
async def test_life_ends_with_what_it_belongs_to(node: Surface, left, longest):
    """``not_after`` shortens a life, down to one second, and never lengthens it (RF3, TC4)."""
    end = NumericDate(node.clock.now() + left)
    for _ in range(10):
        planned = issuing_of(node).plan(request(node), not_after=end)
        assert 1 <= planned.minting.exp - node.clock.now() <= longest


async def test_node_without_a_key_plans_nothing(node: Surface):
    """Before anything is committed a node that cannot sign says so."""
    await revoke_key(node.store.keyring, node.issuer, node.kid, reason="test", timing=node.services.timing)
    await node.services.ring.refresh()
    with pytest.raises(NotReady):
        issuing_of(node).plan(request(node))


@pytest.fixture
async def node():
    async with surface() as running:
        yield running
