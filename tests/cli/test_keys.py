"""``mintmark keys``."""

import dataclasses
import io

import pytest

from mintmark.cli.app import run
from mintmark.cli.output import instant
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import Key, KeyKind, KeyMode, KeyState
from mintmark.core.revocation import Kind
from mintmark.units import NumericDate

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


@pytest.fixture
def lively(keyed, monkeypatch):
    """The same, where a node lives for an hour after its heartbeat: commands take what time they take."""
    monkeypatch.setattr("mintmark.core.keyring.LIVE_FOR", 3600)
    return keyed


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
    assert rows[0].split()[:7] == ["KID", "STATE", "MODE", "ALG", "NODE", "AGE", "ACTIVATION"]
    assert [row.split()[:5] for row in rows[1:]] == [
        [FIRST, "active", "own", "RS256", "node-1"],
        [SECOND, "active", "own", "RS256", "node-2"],
        [THIRD, "prepared", "own", "RS256", "node-2"],
    ]


def test_list_on_a_narrow_terminal_is_a_line_a_key(keyed, monkeypatch):
    """In 80 columns no kid is cut into pieces: as much of it is shown as tells it from the others."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert run(["keys", "list"]) == 0
    head, *rows = terminal.getvalue().splitlines()
    assert head.split() == ["KID", "STATE", "MODE", "ALG", "NODE", "AGE", "SIGNS", "KEPT"]
    assert [row.split()[0] for row in rows] == [FIRST[:8], SECOND[:8], THIRD[:8]]
    assert max(len(row) for row in rows) <= 80
    keyed.add_key(SECOND[:12] + "d" * 31, node="node-3")
    terminal.truncate(0)
    assert run(["keys", "list"]) == 0
    assert [row.split()[0] for row in terminal.getvalue().splitlines()[1:]][1] == SECOND[:13]


def test_list_is_complete_for_programs(lively):
    """Every field of a key but the key itself, who lives, what is wanted, and what was ignored."""
    lively.beat("node-1")
    answer = lively.ok("keys", "list")
    assert answer["kind"] is None
    assert answer["rejected"] == []
    assert [key["node_live"] for key in answer["keys"]] == [True, False, False]
    fields = {field.name for field in dataclasses.fields(Key)}
    assert set(answer["keys"][0]) == fields - {"jwk"} | {"node_live"}
    assert {key["sealed"] for key in answer["keys"]} == {False}


def test_key_that_a_stranger_wrote_is_named_and_not_listed(keyed, monkeypatch):
    """With a cluster key the commands see what nodes see; the name goes to standard error."""
    monkeypatch.setenv("CLUSTER", "x" * 16)
    monkeypatch.setenv("MINTMARK_CLUSTER_KEY", "env:CLUSTER")
    result = keyed("keys", "list")
    assert FIRST not in result.out
    assert f"key {FIRST}: written without this cluster_key, ignored" in result.err
    assert {row["table"] for row in keyed.ok("keys", "list")["rejected"]} == {"ring", "key"}


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


# --- hold, release, remove -----------------------------------------------------------------------------


def test_held_key_stays_until_it_is_released(keyed):
    """Each is logged once with its actor, said in the list, and done once."""
    said = keyed("keys", "hold", FIRST[:5])
    assert (said.status, said.out) == (0, f"Key {FIRST} stays in the key set until it is released.\n")
    assert said.err.count('"event": "key.held"') == 1
    assert keyed.ring().find(FIRST).held
    assert keyed("keys", "list").out.splitlines()[1].rstrip().endswith("held")
    again = keyed("keys", "hold", FIRST, "--json")
    assert (again.status, again.json["changed"], again.json["held"], again.err) == (0, False, True, "")
    assert "nothing changed" in keyed("keys", "hold", FIRST).out
    released = keyed("keys", "release", FIRST, "--json")
    assert (released.json["changed"], released.json["held"]) == (True, False)
    assert '"event": "key.released"' in released.err
    assert not keyed.ring().find(FIRST).held


def test_key_that_is_not_published_cannot_be_held(keyed):
    """A revoked key is out of the set, and stays out."""
    keyed.ok("keys", "revoke", FIRST, "--reason", "x")
    result = keyed("keys", "hold", FIRST)
    assert (result.status, result.err) == (1, f"mintmark: key {FIRST} is not in the key set\n")


def test_key_in_use_is_not_removed(keyed):
    """The refusal names the latest exp that it could break, and when the key may leave."""
    before = keyed.ring()
    result = keyed("keys", "remove", FIRST)
    latest = keyed.settings.timing.latest_exp(before.find(FIRST).lease_until)
    assert result.status == 1
    assert result.out == ""
    assert f"key {FIRST} signs, and may have tokens that are valid" in result.err
    assert f"the latest exp that this could break is {instant(latest)}; it may leave in " in result.err
    assert keyed.ring() == before


def test_key_whose_tokens_have_expired_stays_for_verifiers_with_leeway(keyed):
    """The refusal speaks of no token that is still to expire."""
    prepared_at = keyed.ring().find(FIRST).prepared_at
    keyed.change(FIRST, state=KeyState.PASSIVE, publish_until=NumericDate(prepared_at + 300))
    result = keyed("keys", "remove", FIRST)
    assert (result.status, result.out) == (1, "")
    assert f"the last token of key {FIRST} expired {instant(prepared_at - 30)}, and" in result.err
    assert "; it may leave in " in result.err


def test_revoked_key_of_the_cluster_is_every_nodes(keyed):
    """No single node is said to stop."""
    keyed.change(FIRST, mode=KeyMode.SHARED)
    assert "exp that a node could sign" in keyed("keys", "revoke", FIRST, "--reason", "x", "--dry-run").out
    assert "every node stops signing with it" in keyed("keys", "revoke", FIRST, "--reason", "x").out


def test_key_that_nothing_needs_is_removed(keyed):
    """A prepared key, and one whose last token has expired, are out of the ring at once."""
    removed = keyed("keys", "remove", THIRD, "--json")
    assert (removed.status, removed.json) == (0, {"kid": THIRD, "removed": True})
    assert '"event": "key.removed"' in removed.err
    keyed.change(FIRST, state=KeyState.PASSIVE, lease_until=NumericDate(1), publish_until=NumericDate(2))
    assert keyed("keys", "remove", FIRST).out == f"Removed key {FIRST}.\n"
    assert [key.kid for key in keyed.ring().keys] == [SECOND]
    assert keyed("keys", "remove", FIRST).status == 3


def test_held_key_is_not_removed(keyed):
    """Whoever holds a key says so; the refusal names the command that lets it go."""
    keyed.change(
        FIRST, state=KeyState.PASSIVE, lease_until=NumericDate(1), publish_until=NumericDate(2), held=True
    )
    result = keyed("keys", "remove", FIRST)
    assert result.status == 1
    assert "is held: `mintmark keys release`" in result.err
    assert keyed.ring().find(FIRST).held


def test_revoked_key_stays_on_record(keyed):
    """Its row is what refuses its tokens."""
    keyed.ok("keys", "revoke", FIRST, "--reason", "x")
    assert "stays on record" in keyed("keys", "remove", FIRST).err


# --- switch --------------------------------------------------------------------------------------------


def test_switch_says_what_follows_and_when(lively):
    """The kind is in the ring, the change is logged, and the times are those of the arithmetic."""
    lively.beat("node-1", modes=frozenset(KeyMode))
    dry = lively.ok("keys", "switch", "--mode", "shared", "--algorithm", "ES256", "--dry-run")
    assert (dry["changed"], dry["dry_run"], lively.ring().kind) == (False, True, None)
    timing = lively.settings.timing
    assert dry["former_until"] - dry["signs_from"] == timing.covered_until(timing.lease)
    result = lively("keys", "switch", "--mode", "shared", "--algorithm", "ES256")
    assert result.status == 0
    assert '"event": "kind.switched"' in result.err
    said = result.out.splitlines()
    assert said[0] == "Switched from own RS256 to shared ES256."
    assert said[1] == "One key of the cluster is prepared now."
    assert said[2].startswith("It signs in 15m 35s (")
    assert said[3].startswith("Until then the present keys sign. They leave the key set in ")
    assert lively.ring().kind == KeyKind(KeyMode.SHARED, Algorithm.ES256)
    again = lively("keys", "switch", "--mode", "shared", "--json")
    assert (again.status, again.json["changed"], again.err) == (0, False, "")
    assert again.json["to"] == {"mode": "shared", "algorithm": "ES256"}
    assert "Keys are shared ES256 already" in lively("keys", "switch", "--mode", "shared").out


def test_switch_names_what_is_to_change(keyed):
    """What is not named stays, and nothing named at all is a mistake."""
    assert keyed.ok("keys", "switch", "--algorithm", "PS256")["to"] == {"mode": "own", "algorithm": "PS256"}
    assert keyed("keys", "switch").status == 2
    assert keyed("keys", "switch", "--mode", "peer").status == 2


def test_switch_waits_for_every_live_node(lively):
    """One that is not set up for the mode is named, and nothing changes; one that leaves is not asked."""
    lively.beat("node-1", modes=frozenset(KeyMode))
    lively.beat("node-2")
    lively.beat("leaving", modes=frozenset())
    for argv in (["--dry-run"], []):
        result = lively("keys", "switch", "--mode", "hsm", *argv)
        assert (result.status, lively.ring().kind) == (1, None)
        assert result.err == "mintmark: hsm: not every live node is set up for it: node-2\n"


def test_eddsa_is_never_mixed_into_a_set(lively):
    """While keys of the other family are needed, the switch is refused with the time when they are gone; as
    nodes that live keep theirs, it says that they have to stop."""
    before = lively.ring()
    result = lively("keys", "switch", "--algorithm", "EdDSA", "--dry-run")
    latest = max(key.publish_until for key in before.keys)
    assert result.status == 1
    assert f"the last key of the other kind leaves {instant(latest)}\n" in result.err
    assert lively("keys", "switch", "--mode", "hsm", "--algorithm", "EdDSA").status == 2
    lively.beat("node-1")
    said = lively("keys", "switch", "--algorithm", "EdDSA").err
    assert f"leaves {instant(latest)}, if all nodes are stopped until then" in said
    assert lively.ring() == before


def test_switch_before_the_first_node_is_for_when_it_starts(shop):
    """Nobody lives, nobody signs, and no time is promised."""
    said = shop("keys", "switch", "--algorithm", "ES256").out
    assert "when a node starts" in said
    assert "It signs" not in said
    assert shop.ring().kind == KeyKind(KeyMode.OWN, Algorithm.ES256)


# --- timeline ------------------------------------------------------------------------------------------


def test_timeline_is_a_picture_for_people_and_spans_for_programs(keyed):
    """One bar a key under its node, no wider than 80 columns in a pipe and without a code of colour."""
    lines = keyed("keys", "timeline").out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert [line for line in lines if line.startswith("node")] == ["node node-1, gone", "node node-2, gone"]
    assert [line.split()[0] for line in lines if "RS256" in line] == [FIRST[:8], SECOND[:8], THIRD[:8]]
    answer = keyed.ok("keys", "timeline")
    assert [key["kid"] for key in answer["keys"]] == [FIRST, SECOND, THIRD]
    assert [one["phase"] for one in answer["keys"][0]["spans"]] == ["prepared", "active", "passive"]
    assert answer["begin"] < answer["now"] < answer["end"]


def test_timeline_of_nothing_says_so(shop):
    """Before the first node there is nothing to draw."""
    assert shop("keys", "timeline").out == "No keys: a node makes one when it starts.\n"
