"""``mintmark timing``: what it shows, what it changes, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.command_line import CommandLine
from tests.cli.nodes import start, stop

from mintmark.core.timing import NAMES, Timing
from mintmark.core.timing_change import Agreement
from mintmark.ports.store import Store
from mintmark.server.agreement import encode_agreement, read_agreement
from mintmark.units import Issuer, Seconds

FORMER = Timing()
ONE, OTHER = "https://auth.example.com", "https://login.example.org/eu"
TABLES = f'\n[[issuers]]\nissuer = "{ONE}"\n\n[[issuers]]\nissuer = "{OTHER}"\n'


def configure(text: str) -> None:
    Path("mintmark.toml").write_text(text)


def agreement(cli: CommandLine, issuer: str | None = None) -> Agreement:
    async def read(store: Store) -> Agreement:
        stored = await store.keyring.timing(Issuer(issuer or cli.settings.issuer))
        assert stored is not None
        return read_agreement(stored)

    return cli.within(read)


@pytest.fixture
def timed(shop: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Two nodes with the defaults, which live for as long as the test takes."""
    monkeypatch.setattr("mintmark.core.keyring.LIVE_FOR", 3600)
    start(shop, "old-a")
    start(shop, "old-b")
    return shop


def restart(cli: CommandLine, former: str, node: str) -> None:
    stop(cli, former)
    start(cli, node)


def test_a_change_from_its_begin_to_its_end(timed):
    """Begun, nodes restarted one by one, finished; each step says what comes next, and nothing is skipped."""
    configure('access_ttl = "5m"\n')
    begun = timed("timing", "change")
    assert begun.status == 0
    assert begun.out.splitlines() == [
        "Nodes may have either settings from now on: access_ttl 15m to 5m.",
        "Restart these nodes with the new settings, one by one: old-a, old-b.",
        "After each, wait until its key is active (`mintmark keys list`), if it has one of its own.",
        "Then `mintmark timing finish`.",
    ]
    assert '"event": "timing_change.begun"' in begun.err
    assert '"settings": "access_ttl 15m to 5m"' in begun.err
    restart(timed, "old-a", "new-a")
    refused = timed("timing", "finish")
    assert refused.status == 1
    assert refused.err == "mintmark: restart these nodes with the wanted settings first: old-b\n"
    assert agreement(timed).current == FORMER
    again = timed("timing", "change")
    assert again.out.splitlines()[0] == "That change is under way: access_ttl 15m to 5m."
    assert again.err == ""
    restart(timed, "old-b", "new-b")
    assert "Every node has the new settings" in timed("timing", "change").out
    finished = timed("timing", "finish")
    assert finished.status == 0
    assert finished.out.splitlines()[0] == "Only nodes with these settings may work from now on."
    assert '"event": "timing_change.finished"' in finished.err
    assert agreement(timed) == Agreement(current=replace(FORMER, access_ttl=Seconds(300)))
    last = timed("timing", "finish")
    assert (last.status, last.out, last.err) == (0, "No change of the timing is under way.\n", "")


def test_show_says_what_differs_and_who_has_which(timed):
    """Without a change, what is not as configured; with one, both, by node, and the next step."""
    assert "differs" not in timed("timing", "show").out
    configure('access_ttl = "5m"\nsigners = 4\n')
    lines = [line.split() for line in timed("timing", "show").out.splitlines()]
    assert lines[0] == ["SETTING", "CURRENT", "HERE"]
    assert ["access_ttl", "15m", "5m", "differs"] in lines
    assert ["signers", "8", "4", "differs"] in lines
    assert ["lease", "2m", "2m"] in lines
    assert "A node with the settings here does not start" in timed("timing", "show").out
    timed.ok("timing", "change")
    restart(timed, "old-a", "new-a")
    shown = timed("timing", "show").out
    assert ["access_ttl", "15m", "5m", "5m"] in [line.split() for line in shown.splitlines()]
    assert "Node new-a has the wanted settings." in shown
    assert "Node old-b has the current settings, and began before the change." in shown
    assert "one by one: old-b." in shown


def test_show_for_programs(timed):
    """The same as numbers, and who does not know both."""
    configure('access_ttl = "5m"\n')
    timed.ok("timing", "change")
    restart(timed, "old-a", "new-a")
    document = timed.ok("timing", "show")
    (one,) = document["issuers"]
    assert document["settings"]["access_ttl"] == one["wanted"]["access_ttl"] == 300
    assert one["current"] == {name: getattr(FORMER, name) for name in NAMES}
    assert one["may_start"] is True
    assert one["nodes"] == [
        {"node": "new-a", "settings": "wanted", "knows_both": True},
        {"node": "old-b", "settings": "current", "knows_both": False},
    ]
    assert one["unfinished"] == ["restart these nodes with the wanted settings first: old-b"]


def test_a_change_is_withdrawn_by_the_former_settings(timed):
    """Once no node has the new ones; those that have are named."""
    configure('access_ttl = "5m"\n')
    timed.ok("timing", "change")
    restart(timed, "old-a", "new-a")
    configure("")
    refused = timed("timing", "change")
    assert refused.status == 1
    assert refused.err == "mintmark: restart these nodes with the former settings first: new-a\n"
    restart(timed, "new-a", "back-a")
    withdrawn = timed("timing", "change")
    assert withdrawn.out == "Withdrawn: the nodes keep these settings.\n"
    assert '"event": "timing_change.withdrawn"' in withdrawn.err
    assert agreement(timed) == Agreement(current=FORMER)
    assert timed("timing", "change").out == "The nodes have these settings already.\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('lease = "20s"\n', "more than 2 times as long or as short"),
        (
            'lease = "1m"\nfeed_bound = "135s"\n',
            "while nodes work by both timings, lease + ",
        ),
    ],
)
def test_a_change_that_breaks_a_rule_on_the_way_is_refused(timed, settings, said):
    """With the reason, although the settings are sound by themselves; and the store is as it was."""
    configure(settings)
    result = timed("timing", "change")
    assert result.status == 1
    assert said in result.err
    assert agreement(timed) == Agreement(current=FORMER)


def test_settings_that_break_a_rule_reach_no_node(timed):
    """They are no settings: the rules of one timing are checked before anything is changed."""
    configure('jwks_max_age = "20m"\n')
    assert timed("timing", "change").status == 2
    configure("")
    assert agreement(timed) == Agreement(current=FORMER)


def test_a_change_is_not_finished_before_keys_cover_the_tokens_to_come(timed):
    """K2: while a key that signs was renewed for shorter tokens alone, to finish is refused."""
    timed.add_key("k" * 43, node="old-b")
    configure('access_ttl = "30m"\n')
    timed.ok("timing", "change")
    restart(timed, "old-a", "new-a")
    restart(timed, "old-b", "new-b")
    result = timed("timing", "finish")
    assert result.status == 1
    assert f"a token of {'k' * 43} could outlive it (K2)" in result.err
    assert "old-b" in result.err, "it may sign yet"
    timed.change("k" * 43, lease_until=1)
    assert timed("timing", "finish").status == 0


def test_a_shorter_max_age_is_followed_by_the_time_of_the_copies(timed):
    """K1: another change is refused until caches hold nothing from before, and the command says how long."""
    configure('jwks_max_age = "1m"\n')
    timed.ok("timing", "change")
    restart(timed, "old-a", "new-a")
    restart(timed, "old-b", "new-b")
    finished = timed("timing", "finish")
    assert "Caches may hold key sets from before" in finished.out
    assert timed.ok("timing", "show")["issuers"][0]["caches_until"] == agreement(timed).copies_until
    configure('jwks_max_age = "2m"\n')
    refused = timed("timing", "change")
    assert refused.status == 1
    assert "HTTP caches may hold key sets from before the last change" in refused.err


def test_where_no_node_ever_began_there_is_nothing_to_change(shop):
    """The first one writes its own settings."""
    for command in ("show", "change"):
        result = shop("timing", command)
        assert result.out == "No node has begun yet: the first one writes its own settings.\n"
    assert shop.ok("timing", "finish")["issuers"][0]["changed"] is False


def test_a_change_is_of_all_issuers_and_what_was_left_is_done_by_the_next(timed):
    """One that fails for one issuer changes none; one that was cut off in between is completed."""
    configure(TABLES)
    start(timed, "old-a")
    configure('access_ttl = "5m"\n' + TABLES)
    wanted = timed.settings.timing

    async def half(store: Store) -> None:
        document = encode_agreement(Agreement(current=FORMER, wanted=replace(FORMER, lease=Seconds(90))))
        assert await store.keyring.swap_timing(Issuer(OTHER), expected=1, document=document)

    timed.within(half)
    refused = timed("timing", "change")
    assert refused.status == 1
    assert f"{OTHER}: another change is not finished" in refused.err
    assert agreement(timed, ONE) == Agreement(current=FORMER)

    async def mend(store: Store) -> None:
        document = encode_agreement(Agreement(current=FORMER, wanted=wanted))
        assert await store.keyring.swap_timing(Issuer(OTHER), expected=2, document=document)

    timed.within(mend)
    done = timed.ok("timing", "change")["issuers"]
    assert [(one["issuer"], one["changed"]) for one in done] == [(ONE, True), (OTHER, False)]
    assert agreement(timed, ONE) == agreement(timed, OTHER)
    stop(timed, "old-a")
    start(timed, "new-a")
    finished = timed("timing", "finish")
    assert finished.out.splitlines()[:2] == [
        f"{one}: Only nodes with these settings may work from now on." for one in (ONE, OTHER)
    ]
    assert timed("timing", "show", "--issuer", ONE).status == 2
