"""/livez, /readyz and /metrics."""

from dataclasses import replace

from tests.http.surface import PASSWORD, SECRET, Surface, surface

from mintmark.adapters.memory import MemoryStore
from mintmark.core import keyring
from mintmark.core.timing import Timing
from mintmark.server.emergency import revoke_key
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
from mintmark.units import NodeId, NumericDate


async def reasons(node: Surface) -> list[str]:
    """Why the node is not ready; the status and the list always agree."""
    answer = await node.http.get("/readyz")
    found: list[str] = answer.json()["reasons"]
    assert answer.status_code == (503 if found else 200)
    assert answer.headers["cache-control"] == "no-store"
    return found


async def test_healthy_node_is_live_and_ready(node: Surface):
    """With everything in order there is no reason, and both probes are 200."""
    assert (await node.http.get("/livez")).status_code == 200
    assert await reasons(node) == []
    assert (await node.http.head("/readyz")).status_code == 200


async def test_probes_are_at_the_root_whatever_the_issuers_path():
    """An orchestrator asks the node, not the issuer."""
    async with surface(issuer="https://auth.example.com/tenant") as node:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await node.http.get(f"https://auth.example.com{path}")).status_code == 200
            assert (await node.http.get(f"{node.issuer}{path}")).status_code == 404


async def test_store_that_is_away_is_a_reason(node: Surface):
    """Two seconds without the log, and ``propagation`` without the ring, are reasons; it stays live."""
    assert isinstance(node.clock, FakeClock)
    await node.store.close()
    node.clock.advance(3)
    assert await reasons(node) == ["log_stale"]
    node.clock.advance(3)
    assert await reasons(node) == ["ring_stale", "log_stale"]
    assert (await node.http.get("/livez")).status_code == 200


async def test_node_without_a_key_is_not_ready(node: Surface):
    """A node whose key was revoked, and one that never had a key, cannot mint."""
    await revoke_key(node.store.keyring, node.issuer, node.kid, reason="test", timing=node.services.timing)
    await node.read_ring()
    assert await reasons(node) == ["no_active_key"]
    await node.add_key(node=NodeId("node-2"))
    await node.read_ring()
    assert await reasons(node) == ["no_active_key"]


async def joining(node: Surface) -> None:
    """Make ``node`` one that joins beside a node that signs."""
    await node.add_key(node=NodeId("node-2"))
    store = node.store.keyring
    view = await store.read(node.issuer)
    assert await store.swap(
        view.ring.generation, keyring.release(view.ring, node.services.node, now=view.now)
    )
    await node.read_ring()


async def test_node_that_joins_serves_all_but_what_it_must_sign(node: Surface):
    """Before its own key signs a node is not ready and mints nothing (503); verifiers find all they need."""
    await joining(node)
    assert await reasons(node) == ["no_active_key"]
    body = {"username": "alice", "password": PASSWORD, "client_id": "spa"}
    for answer in (
        await node.http.post("/v1/sessions", json=body),
        await node.http.post("/token", data={"grant_type": "client_credentials"}, auth=("stock", SECRET)),
    ):
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    keys = (await node.http.get("/.well-known/jwks.json")).json()["keys"]
    assert len(keys) == 2
    for path in (
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        f"/keys/{keys[0]['kid']}.json",
        "/revocations",
    ):
        assert (await node.http.get(path)).status_code == 200


async def test_node_without_a_slot_says_so():
    """K6: a node that may have no key, because as many others sign as may, is not silent about it."""
    timing = replace(Timing(), signers=2)
    async with surface(timing=timing) as node:
        await joining(node)
        assert await reasons(node) == ["no_active_key"]
        await node.add_key(node=NodeId("node-3"))
        await node.read_ring()
        assert await reasons(node) == ["no_active_key", "no_slot"]


async def test_lease_that_ended_is_a_reason(node: Surface):
    """Past its lease a node may not sign, although its key is still active in the ring."""
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(node.services.timing.lease - 1)
    await node.read_ring()
    assert "no_active_key" not in await reasons(node)
    node.clock.advance(1)
    assert "no_active_key" in await reasons(node)


async def test_clock_that_is_off_is_a_reason():
    """Further from the store's clock than ``clock_skew``, either way, a node is not ready (I10, F08)."""
    stores_clock, clock = FakeClock(), FakeClock()
    store = MemoryStore(clock=stores_clock, entropy=SYSTEM_ENTROPY)
    async with surface(clock=clock, store=store) as node:
        for off, found in (
            (30, []),
            (31, ["clock_off"]),
            (-30, []),
            (-31, ["clock_off"]),
            (600, ["clock_off"]),
        ):
            clock.step(off)
            await node.services.ring.refresh()
            assert await reasons(node) == found
            clock.step(-off)


async def test_signer_that_is_away_is_a_reason(node: Surface):
    """A dead signer is noticed at the next probe."""
    node.signer.close()
    assert await reasons(node) == ["signer_away"]


async def test_node_that_leaves_is_not_ready(node: Surface):
    """From the moment a node begins to leave it asks for no more requests."""
    node.services.health.leave()
    assert await reasons(node) == ["leaving"]


async def test_probes_ask_the_store_for_nothing():
    """No number of probes is a load on the store."""
    faults = Faults(clock=FakeClock())
    async with surface(faults=faults) as node:
        faults.calls.clear()
        for path in ("/livez", "/readyz", "/metrics", "/.well-known/jwks.json"):
            await node.http.get(path)
        assert faults.calls == {}


async def test_metrics_count_events_and_keys(node: Surface):
    """The numbers of this process are in Prometheus' text form, by event and by state of a key."""
    await node.log_in()
    await node.refresh("mmr_forged")
    answer = await node.http.get("/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'mintmark_events_total{event="session.started",issuer="https://auth.example.com"} 1.0',
        'mintmark_events_total{event="refresh.refused",issuer="https://auth.example.com"} 1.0',
        'mintmark_keys{issuer="https://auth.example.com",state="active"} 1.0',
        'mintmark_keys{issuer="https://auth.example.com",state="revoked"} 0.0',
        'mintmark_feed_followers{issuer="https://auth.example.com"} 0.0',
        'mintmark_feed_fresh{issuer="https://auth.example.com"} 1.0',
        'mintmark_ring_fresh{issuer="https://auth.example.com"} 1.0',
        'mintmark_rotation_overdue{issuer="https://auth.example.com"} 0.0',
    ):
        assert line in lines


async def test_metrics_tell_whether_other_processes_wake_this_one(node: Surface):
    """F20: `mintmark_bus_up` is 1 while the bus works and 0 while it is away; the place is not in it."""
    bus = node.services.bus
    await bus.open()
    assert "mintmark_bus_up 1.0" in (await node.http.get("/metrics")).text.splitlines()
    await bus.close()
    assert "mintmark_bus_up 0.0" in (await node.http.get("/metrics")).text.splitlines()


async def test_metrics_show_a_rotation_that_is_overdue(node: Surface):
    """F09: a key that signs past its target is counted, whichever process should have rotated."""
    store = node.store.keyring
    view = await store.read(node.issuer)
    late = tuple(replace(key, sign_until=NumericDate(view.now - 1)) for key in view.ring.keys)
    ring = replace(view.ring, keys=late, generation=view.ring.generation + 1)
    assert await store.swap(view.ring.generation, ring)
    await node.read_ring()
    text = (await node.http.get("/metrics")).text
    assert 'mintmark_rotation_overdue{issuer="https://auth.example.com"} 1.0' in text.splitlines()


async def test_metrics_do_not_grow_with_what_strangers_send(node: Surface):
    """However many names strangers try, the number of series stays the same: no label is theirs (VF11)."""

    async def attack(name: str) -> int:
        await node.refresh(f"mmr_{name}")
        await node.http.post("/token", data={"client_id": name, "grant_type": name})
        await node.http.get(f"/keys/{name}.json")
        return len((await node.http.get("/metrics")).text.splitlines())

    sizes = [await attack(f"name-{number}") for number in range(3)]
    assert len(set(sizes)) == 1
