"""What is said of the store: the place of a file, clocks, timing, who lives and who signs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mintmark.core.key import Activation, Key, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.timing import Timing
from mintmark.core.timing_change import Agreement
from mintmark.ports.keyring import RejectedRow, RingView, RowKind, StoredTiming
from mintmark.server.agreement import encode_agreement
from mintmark.server.diagnosis import store
from mintmark.server.diagnosis.finding import Check, Finding, Verdict
from mintmark.server.diagnosis.place import NO_SPACE, Place, of_place
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

NOW = NumericDate(1_800_000_000)
TIMING = Timing()
PLACE = Place(
    path=Path("/srv/mintmark.db"),
    mode=0o100600,
    is_file=True,
    folder_exists=True,
    folder_writable=True,
    writable=True,
    free=1 << 40,
    file_system="ext4",
)


def key(kid: str, node: str = "a", state: KeyState = KeyState.ACTIVE, **changed: Any) -> Key:
    given: dict[str, Any] = {
        "kid": Kid(kid),
        "node": NodeId(node),
        "alg": "ES256",
        "jwk": b"{}",
        "state": state,
        "since": 1,
        "prepared_at": NOW - 1000,
        "lease_until": NOW + 60,
        "activated_at": NOW - 900 if state is KeyState.ACTIVE else None,
        "activation": Activation.BOOTSTRAP if state is KeyState.ACTIVE else None,
        "sign_until": NOW + 3600 if state is KeyState.ACTIVE else None,
        "publish_until": NOW + 2000,
    }
    return Key(**given | changed)


def view(*keys: Key, live: str = "a", dead: str = "") -> RingView:
    members = [Member(NodeId(node), NOW, 5) for node in live]
    members += [Member(NodeId(node), NumericDate(NOW - 600), 4) for node in dead]
    return RingView(Ring(issuer=Issuer("https://a.example"), generation=5, keys=keys), tuple(members), NOW)


def shared(*keys: Key) -> RingView:
    """Two nodes that can open the cluster's key; the third, which made it, is gone."""
    seen = view(*keys, live="ab", dead="c")
    modes = frozenset({KeyMode.OWN, KeyMode.SHARED})
    return dataclasses.replace(seen, members=tuple(dataclasses.replace(m, modes=modes) for m in seen.members))


def by_check(findings):
    return {found.check: found for found in findings}


# --- a file ----------------------------------------------------------------------------------------


def test_file_in_order_has_room_and_belongs_to_its_owner():
    """A database file that can be used is left to be opened."""
    found = by_check(of_place(PLACE))
    assert found.keys() == {Check.STORE_SPACE, Check.STORE_MODE}
    assert all(one.verdict is Verdict.OK for one in found.values())


def test_file_that_is_absent_is_made_at_the_first_start():
    """Before the first start nothing is wrong."""
    found = by_check(of_place(dataclasses.replace(PLACE, mode=None, is_file=False, writable=False)))
    assert found[Check.STORE_REACH].verdict is Verdict.OK
    assert "the first start makes it" in found[Check.STORE_REACH].found


@pytest.mark.parametrize(
    ("changed", "fix"),
    [
        ({"folder_exists": False}, "mkdir -p /srv"),
        ({"folder_writable": False}, "chown"),
        ({"writable": False}, "chown"),
        ({"is_file": False, "mode": 0o040700}, "path of a file"),
        ({"mode": None, "folder_writable": False}, "chown"),
    ],
)
def test_file_that_cannot_be_used_is_a_failure(changed, fix):
    """Each reason why the file could not be used or made has its fix."""
    found = by_check(of_place(dataclasses.replace(PLACE, **changed)))
    assert found[Check.STORE_REACH].verdict is Verdict.FAILED
    assert fix in (found[Check.STORE_REACH].fix or "")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_file_that_others_may_open_is_a_warning(mode):
    """Hashes of passwords are for nobody else."""
    found = by_check(of_place(dataclasses.replace(PLACE, mode=0o100000 | mode)))
    assert found[Check.STORE_MODE].verdict is Verdict.WARNING
    assert "chmod" in (found[Check.STORE_MODE].fix or "")


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"free": 200 << 20}, Verdict.WARNING),
        ({"free": NO_SPACE - 1}, Verdict.FAILED),
        ({"file_system": "nfs4"}, Verdict.FAILED),
        ({"file_system": "tmpfs"}, Verdict.OK),
    ],
)
def test_disk_that_is_full_or_far_away_is_told(changed, verdict):
    """Little room warns, no room fails, and so does a file system that SQLite cannot work on."""
    assert by_check(of_place(dataclasses.replace(PLACE, **changed)))[Check.STORE_SPACE].verdict is verdict


# --- a database ------------------------------------------------------------------------------------


def test_database_that_answers_is_told_by_schema_and_by_what_it_takes():
    """Empty is fine, older warns, and one that takes nothing or loses what it took is told."""
    common = {"empty": False, "older": False, "unwritable": None, "lossy": ()}

    def verdicts(**changed):
        return [f.verdict for f in store.of_database("x", "PostgreSQL 15", **common | changed)]

    assert verdicts() == verdicts(empty=True) == [Verdict.OK] * 3
    assert verdicts(older=True) == [Verdict.OK, Verdict.WARNING, Verdict.OK]
    assert verdicts(unwritable="x: the file is read-only") == [Verdict.OK, Verdict.OK, Verdict.FAILED]
    assert verdicts(lossy=("fsync = off",)) == [Verdict.WARNING, Verdict.OK, Verdict.OK]


def test_reason_does_not_repeat_what_it_is_about():
    """The name of the database is said once in a line."""
    found = store.of_outage("db:5432/x", "db:5432/x: nothing listens there", is_file=False)
    assert found.found == "nothing listens there"
    assert "pg_isready" in (found.fix or "")


@pytest.mark.parametrize(
    ("before", "now", "after", "verdict"),
    [
        (100, 100, 100, Verdict.OK),
        (100, 103, 105, Verdict.OK),
        # A slow answer proves nothing about a clock.
        (100, 160, 160, Verdict.OK),
        (100, 100, 160, Verdict.OK),
        (100, 116, 100, Verdict.WARNING),
        (100, 130, 100, Verdict.WARNING),
        (100, 131, 100, Verdict.FAILED),
        (131, 100, 131, Verdict.FAILED),
    ],
)
def test_clock_is_off_only_as_far_as_the_answer_proves(before, now, after, verdict):
    """What lies outside of the two readings counts; the bound is clock_skew, and half of it warns."""
    found = store.of_clock(
        before=NumericDate(before), now=NumericDate(now), after=NumericDate(after), skew=Seconds(30)
    )
    assert found.verdict is verdict
    assert (found.fix is None) is (verdict is Verdict.OK)


def test_clock_that_is_ahead_is_called_so():
    """Which of the two must be moved is said."""

    def found(now):
        return store.of_clock(
            before=NumericDate(100), now=NumericDate(now), after=NumericDate(100), skew=Seconds(30)
        ).found

    assert "1m 40s ahead of the store" in found(0)
    assert "1m 40s behind the store" in found(200)


def test_other_timing_is_a_failure_only_beside_live_nodes():
    """A node that starts alone writes its own; beside others it does not start, and each setting is named."""
    theirs = Timing(lease=Seconds(60))
    stored = StoredTiming(encode_agreement(Agreement(current=theirs)), 3)
    assert store.of_timing(None, TIMING, live=0).verdict is Verdict.OK
    same = StoredTiming(encode_agreement(Agreement(current=TIMING)), 3)
    assert store.of_timing(same, TIMING, live=2).verdict is Verdict.OK
    assert store.of_timing(same, TIMING, live=2).found == "as in the store (generation 3)"
    both = StoredTiming(encode_agreement(Agreement(current=theirs, wanted=TIMING)), 4)
    assert "while it changes: finish that" in store.of_timing(both, TIMING, live=2).found
    assert store.of_timing(stored, TIMING, live=0).verdict is Verdict.OK
    found = store.of_timing(stored, TIMING, live=2)
    assert found.verdict is Verdict.FAILED
    assert "lease is 120 here and 60 there" in found.found
    assert "access_ttl" not in found.found


def test_nodes_are_counted_by_the_clock_of_the_store():
    """Live nodes, those that died, and those on an older ring are told apart."""
    found = store.of_nodes(view(live="ab", dead="c")).found
    assert found == "2 live (a, b); 1 ended without leaving, the last 10m ago"
    late = dataclasses.replace(view(), members=(Member(NodeId("a"), NOW, 4),))
    assert "1 on an older ring than 5" in store.of_nodes(late).found


@pytest.mark.parametrize(
    ("seen", "verdict", "found"),
    [
        (view(key("k")), Verdict.OK, "1 active, the next lease ends in 1m"),
        (view(key("k"), live="ab"), Verdict.OK, "1 live node without one"),
        (shared(key("k", "c", mode=KeyMode.SHARED)), Verdict.OK, "1 active, the next lease ends in 1m"),
        (view(key("k", "c", mode=KeyMode.SHARED)), Verdict.FAILED, "nobody gets a token"),
        (view(key("k", "c"), live="ab", dead="c"), Verdict.FAILED, "nobody gets a token"),
        (view(key("k", lease_until=NOW)), Verdict.FAILED, "their leases have ended"),
        (view(key("k", state=KeyState.PREPARED)), Verdict.FAILED, "no live node has a key"),
        (view(key("k", state=KeyState.PASSIVE), live=""), Verdict.OK, "1 stay public"),
        (view(live=""), Verdict.OK, "a node makes one when it starts"),
    ],
)
def test_somebody_signs_where_somebody_lives(seen, verdict, found):
    """A live node without any key that may sign is an outage; without live nodes there is none to tell of. A
    key of the cluster signs on when the node that made it is gone, and each node that can open it has it."""
    said = store.of_keys(seen)
    assert said.verdict is verdict
    assert found in said.found
    assert ("without one" in said.found) is (found == "1 live node without one")


@pytest.mark.parametrize(
    ("seen", "verdict", "found"),
    [
        (view(key("k")), Verdict.OK, "the next key is to follow in 1h"),
        (view(key("k", sign_until=NOW - 90)), Verdict.WARNING, "overdue by 1m 30s: k signs on"),
        # It resigned: its node is leaving, and wants no successor.
        (view(key("k", sign_until=NOW - 900)), Verdict.OK, "nothing is late"),
        (view(key("k"), key("n", state=KeyState.PREPARED)), Verdict.WARNING, "n is prepared for 16m 40s"),
        (
            view(key("k"), key("n", state=KeyState.PREPARED, proven_at=NOW - 500)),
            Verdict.OK,
            "nothing is late",
        ),
        (
            view(key("k"), key("n", state=KeyState.PREPARED, prepared_at=NOW - 20)),
            Verdict.OK,
            "nothing is late",
        ),
        (view(key("k", "c", sign_until=NOW - 90), live="a", dead="c"), Verdict.OK, "no key signs now"),
        (
            shared(key("k", "c", mode=KeyMode.SHARED, sign_until=NOW - 90)),
            Verdict.WARNING,
            "overdue by 1m 30s",
        ),
    ],
)
def test_rotation_that_is_late_is_a_warning_with_its_keys(seen, verdict, found):
    """Keys of live nodes past their time, and new ones that nobody proves, are named; dead ones are not."""
    said = store.of_rotation(seen, TIMING)
    assert said.verdict is verdict
    assert found in said.found


@pytest.mark.parametrize(
    ("count", "verdict"), [(1, Verdict.OK), (15, Verdict.OK), (16, Verdict.WARNING), (24, Verdict.FAILED)]
)
def test_key_set_is_measured_against_gateways_and_the_limit(count, verdict):
    """From sixteen keys on gateways may refuse the set, and at the limit no key follows."""
    keys = [key(f"k{n}", state=KeyState.PASSIVE) for n in range(count)]
    assert store.of_jwks(view(*keys), TIMING).verdict is verdict


# --- who wrote the rows ------------------------------------------------------------------------------


def rows(seen: RingView, *, keyed: bool = False, replacing: bool = False, is_file: bool = True) -> Finding:
    return store.of_rows(seen, keyed=keyed, replacing=replacing, is_file=is_file)


def test_store_that_nodes_share_wants_a_cluster_key():
    """A server, or a second live node, is enough for a warning; one node on its own file is not."""
    assert rows(view(live="a")).verdict is Verdict.OK
    for shared in (rows(view(live="ab")), rows(view(live="a"), is_file=False)):
        assert shared.verdict is Verdict.WARNING
        assert "no cluster_key" in shared.found
    assert rows(view(live="ab"), keyed=True, is_file=False).verdict is Verdict.OK


def test_second_key_of_the_cluster_is_for_a_while():
    """While rows are taken that another wrote, that is said."""
    assert rows(view(), keyed=True, replacing=True).verdict is Verdict.WARNING


def test_rows_that_nobody_here_can_check_are_a_warning():
    """The others have a key, and this configuration has none."""
    assert "none here" in rows(dataclasses.replace(view(live="a"), unchecked=True)).found


def test_rejected_rows_are_a_failure_and_named():
    """With what they are of and the names that they claim, cut after three, and escaped."""
    names = ("a", "b\x1b[31m", "c", "d")
    found = rows(
        dataclasses.replace(view(), rejected=tuple(RejectedRow(RowKind.KEY, name) for name in names)),
        keyed=True,
    )
    assert found.verdict is Verdict.FAILED
    assert "4 rows" in found.found
    assert found.found.endswith("key c and 1 more")
    assert found.found.isprintable()
