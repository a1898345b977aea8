"""``mintmark keys``."""

import pytest

from mintmark.core.key import KeyState
from mintmark.core.revocation import Kind

FIRST = "first" + "a" * 38
SECOND = "secondA" + "b" * 36
THIRD = "secondB" + "c" * 36


@pytest.fixture
def keyed(shop):
    """Two active keys of two nodes and a prepared one."""
    shop.add_key(FIRST, node="node-1")
    shop.add_key(SECOND, node="node-2")
    shop.add_key(THIRD, node="node-2", active=False)
    return shop


def log(cli):
    """What the revocation log denies."""
    issuer = cli.settings.issuer

    async def read(store):
        return [entry.event for entry in (await store.revocations.read(issuer, None, limit=100)).entries]

    return cli.within(read)


def state(cli, kid):
    """The key's state in the store."""
    return cli.ring().find(kid).state


def test_keys_of_all_nodes_are_listed(keyed):
    """Every key with its state, node and times, in full for programs and readable for people."""
    answer = keyed.ok("keys", "list")
    assert (answer["issuer"], answer["generation"]) == (keyed.settings.issuer, keyed.ring().generation)
    first, second, third = answer["keys"]
    assert (first["kid"], first["state"], first["alg"], first["node"]) == (FIRST, "active", "RS256", "node-1")
    assert first["activation"] == "bootstrap"
    assert first["sign_until"] == first["activated_at"] + keyed.settings.timing.rotate_every
    assert first["publish_until"] > first["lease_until"]
    assert second["state"] == "active"
    assert (third["state"], third["activated_at"], third["publish_until"]) == ("prepared", None, None)
    assert "jwk" not in first
    rows = keyed("keys", "list").out.splitlines()
    assert rows[0].split()[:6] == ["KID", "STATE", "ALG", "NODE", "AGE", "ACTIVATION"]
    assert [row.split()[:4] for row in rows[1:]] == [
        [FIRST, "active", "RS256", "node-1"],
        [SECOND, "active", "RS256", "node-2"],
        [THIRD, "prepared", "RS256", "node-2"],
    ]


def test_rotation_is_asked_for_in_the_store(keyed):
    """Every node reads the request from the ring; the answer says what happens next, and when."""
    answer = keyed.ok("keys", "rotate")
    assert answer["rotate_requested_at"] == keyed.ring().rotate_requested_at is not None
    assert (answer["active_keys"], answer["lead"]) == (2, keyed.settings.timing.lead)
    assert "15m 35s" in keyed("keys", "rotate").out


def test_rotation_without_a_node_says_so(shop):
    """Where no key is active nobody can act on the request yet."""
    assert "No key is active now" in shop("keys", "rotate").out


@pytest.mark.parametrize("written", [FIRST, FIRST[:1], FIRST[:20]])
def test_key_is_revoked_under_its_kid_or_its_beginning(keyed, written):
    """The key is out of the ring's published keys, and its kid is on the log with the change."""
    result = keyed("keys", "revoke", written, "--reason", "laptop stolen")
    assert (result.status, result.out.splitlines()[0]) == (0, f"Revoked key {FIRST}.")
    assert "2m" in result.out
    assert "15m" in result.out
    key = keyed.ring().find(FIRST)
    assert (key.state, key.reason) == (KeyState.REVOKED, "laptop stolen")
    assert [(event.kind, event.value) for event in log(keyed)] == [(Kind.KID, FIRST)]
    assert '"event": "key.revoked"' in result.err


def test_beginning_of_two_kids_revokes_neither(keyed):
    """What could mean two keys means none, and the line says how many."""
    result = keyed("keys", "revoke", "second", "--reason", "x")
    assert (result.status, result.err) == (2, 'mintmark: 2 keys begin with "second": write more of the kid\n')
    assert state(keyed, SECOND) is KeyState.ACTIVE
    assert log(keyed) == []


def test_revoking_twice_is_done_once(keyed):
    """The second time nothing changes, it succeeds and says so, and the first reason stands."""
    assert keyed.ok("keys", "revoke", SECOND, "--reason", "first")["revoked"] is True
    again = keyed("keys", "revoke", SECOND, "--reason", "second", "--json")
    assert (again.status, again.json["revoked"], again.json["state"]) == (0, False, "revoked")
    assert again.err == ""
    assert keyed.ring().find(SECOND).reason == "first"
    assert len(log(keyed)) == 1


def test_kid_that_begins_with_a_hyphen_is_no_option(shop):
    """One kid in 64 begins with a hyphen, and is copied from a list in a hurry."""
    kid = "-" + "k" * 42
    shop.add_key(kid)
    assert shop.ok("keys", "revoke", "--dry-run", "--reason", "x", kid)["kid"] == kid
    assert shop.ok("keys", "revoke", kid, "--reason", "x")["revoked"] is True
    assert state(shop, kid) is KeyState.REVOKED
    assert shop("keys", "revoke", "--reason", "x", "--", kid[:5]).status == 0


def test_dry_run_counts_sessions_and_changes_nothing(keyed):
    """It says how many sessions last used the key and the latest exp that could have been signed."""
    for kid in (FIRST, FIRST, SECOND):
        keyed.add_session("ada", "shop", kid=kid)
    before = keyed.ring()
    answer = keyed.ok("keys", "revoke", FIRST, "--reason", "x", "--dry-run")
    key = before.find(FIRST)
    assert answer == {
        "kid": FIRST,
        "state": "active",
        "revoked": False,
        "dry_run": True,
        "sessions": 2,
        "latest_exp": keyed.settings.timing.latest_exp(key.lease_until),
    }
    said = keyed("keys", "revoke", FIRST, "--reason", "x", "--dry-run")
    assert "Nothing was changed." in said.out
    assert (said.err, keyed.ring(), log(keyed)) == ("", before, [])
    assert "never signed" in keyed("keys", "revoke", THIRD, "--reason", "x", "--dry-run").out


def test_sessions_live_on_after_a_revocation(keyed):
    """A key's revocation ends no session: the next refresh is signed with another key."""
    keyed.add_session("ada", "shop", kid=FIRST)
    keyed.ok("keys", "revoke", FIRST, "--reason", "x")
    assert len(keyed.ok("sessions", "list")["sessions"]) == 1
