"""R4: whoever has a copy of every table, and all older copies, refreshes nothing.

The thief of :mod:`tests.http.thief` tries what he can make of them at a running node. That he would succeed
where something can be had is shown by the residual: the same attack, with a token of a backup's time, does.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.dump import dump
from tests.http.pair import (
    GRACE,
    OK,
    REFUSED,
    Pair,
    Someone,
    outcome,
    pair_on,
    refresh,
    refresh_once,
    refreshed,
)
from tests.http.surface import SECRET
from tests.http.thief import Stolen, Thief, steal_database, steal_file
from tests.registry import store_rig

from mintmark.core import sessions
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.testing.conformance.rig import Rig

OURS = Pepper(key=Pepper.derive(b"what the database never held"))


@dataclass
class Database:
    """An empty database, and how one copies all of it."""

    rig: Rig
    steal: Callable[[], Awaitable[Stolen]]


@pytest.fixture(params=["sqlite", "postgresql"])
async def victim(request, tmp_path) -> AsyncIterator[Database]:
    """One on each store that is kept."""

    async def steal() -> Stolen:
        if request.param == "sqlite":
            return steal_file(tmp_path / "store.db")
        return await steal_database(request.getfixturevalue("database"))

    async with store_rig(request.param, tmp_path, request.getfixturevalue) as rig:
        yield Database(rig, steal)


@dataclass
class History:
    """What happened, and a copy of the database after each step of it."""

    town: Pair
    backups: list[Stolen]
    ada: Someone
    """Refreshes now and then; her tokens are in ``spent`` and ``newest``."""
    spent: list[str]
    newest: str
    bank: Someone
    """At a client whose tokens stay the same."""
    thief: Someone
    """A user like others."""


@asynccontextmanager
async def history(victim: Database, pepper: Pepper) -> AsyncIterator[History]:
    """Sessions that are refreshed, ended, and never used again, on nodes with this pepper."""
    async with pair_on(victim.rig, pepper=pepper) as town:
        ada, bank = await town.someone(), await town.someone(secret=SECRET, rotates_refresh=False)
        gone, thief = await town.someone(), await town.someone()
        backups, tokens = [await victim.steal()], [ada.refresh_token]
        for number in range(3):
            tokens.append(await refreshed(town.nodes[number % 2], ada, tokens[-1]))
            backups.append(await victim.steal())
            await town.pass_time(GRACE)
        await refreshed(town.one, bank, bank.refresh_token, client_secret=SECRET)
        assert (await town.one.log_out(gone.access_token)).status_code == 204
        backups.append(await victim.steal())
        # The newest is in use, so that its parent is nobody's any more.
        await refreshed(town.one, ada, tokens[-1])
        tokens.append(await refreshed(town.one, ada, tokens[-1]))
        yield History(town, backups, ada, tokens[:-1], tokens[-1], bank, thief)


async def attack(past: History, texts: set[str]) -> Counter[tuple[int, str | None]]:
    """What a node answers to each text, presented as a token of every client that there is."""
    outcomes: Counter[tuple[int, str | None]] = Counter()
    digests = [row["secret_hash"] for stolen in past.backups for row in stolen.tables["clients"]]
    secrets = {digest.hex() for digest in digests if digest is not None} | {""}
    for text in sorted(texts):
        answers = [await refresh(past.town.one, past.ada, text)]
        if sessions.parse(text) is not None:
            answers += [
                await refresh(past.town.other, past.bank, text, client_secret=secret)
                for secret in sorted(secrets)
            ]
        outcomes.update(map(outcome, answers))
    return outcomes


async def test_all_tables_of_all_times_refresh_nothing(victim: Database):
    """R4, RF9, F39: no value is a token or opens a seal, and presenting what they make changes no byte."""
    async with history(victim, UNPEPPERED) as past:
        stolen = [*past.backups, await victim.steal()]
        thief = Thief(stolen, tokens=[])
        assert list(thief.seeds()) == []
        texts = thief.forgeries()
        assert len(texts) > 100
        kept = await dump(past.town.rig.store)
        outcomes = await attack(past, texts)
        print(f"{len(texts)} texts from {len(stolen)} copies: {dict(outcomes)}")
        assert set(outcomes) <= {REFUSED, (401, "invalid_client"), (400, "invalid_request")}
        assert await dump(past.town.rig.store) == kept
        for token in [*past.spent, past.newest, past.bank.refresh_token]:
            parsed = sessions.parse(token)
            assert parsed is not None
            for copy in stolen:
                assert token.encode() not in copy.raw
                assert parsed.signature not in copy.raw


async def test_tokens_of_old_and_all_tables_refresh_nothing_under_a_cluster_key(victim: Database):
    """R4: with every spent token, with a session of his own and with every backup the thief opens no seal."""
    async with history(victim, OURS) as past:
        own = await refreshed(past.town.one, past.thief, past.thief.refresh_token)
        thief = Thief([*past.backups, await victim.steal()], [*past.spent, past.thief.refresh_token, own])
        assert list(thief.seeds()) == []
        kept = await dump(past.town.rig.store)
        outcomes = await attack(past, thief.forgeries())
        print(dict(outcomes))
        assert set(outcomes) <= {REFUSED, (401, "invalid_client"), (400, "invalid_request")}
        assert await dump(past.town.rig.store) == kept
        assert outcome(await refresh(past.town.other, past.ada, past.newest)) == OK


async def test_residual_without_a_cluster_key_a_token_of_a_backups_time_refreshes(victim: Database):
    """R4, what remains: the same attack finds the private half, and a node takes what that signs."""
    async with history(victim, UNPEPPERED) as past:
        thief = Thief([*past.backups, await victim.steal()], past.spent[:1])
        assert {rid for rid, _ in thief.seeds()} == {past.ada.rid}
        outcomes = await attack(past, thief.forgeries())
        assert outcomes[OK] > 0


async def test_cluster_key_is_introduced_while_sessions_live(victim: Database):
    """R4: nodes that have it go on with sessions from before, and seal them with it; nodes without it then
    answer 503 and end nothing, and a node that replaces it goes on as well."""
    theirs = Pepper(key=Pepper.derive(b"another secret of the cluster"), also=(OURS.key,))
    async with pair_on(victim.rig) as town:
        me = await town.someone()
        async with (
            pair_on(victim.rig, beside=town.one, pepper=Pepper(also=(OURS.key,))) as introducing,
            pair_on(victim.rig, beside=town.one, pepper=OURS) as keyed,
            pair_on(victim.rig, beside=town.one, pepper=theirs) as replacing,
        ):
            token = await refreshed(introducing.one, me, me.refresh_token)
            await town.pass_time(GRACE)
            # Nothing was sealed with it yet: a node that has none goes on.
            assert await refreshed(town.one, me, token) != token
            token = await refreshed(town.one, me, token)
            for there in (introducing, keyed, replacing):
                await there.pass_time(GRACE)
            second = await refreshed(keyed.one, me, token)
            await town.pass_time(GRACE)
            answer = await refresh_once(town.other, me, second)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            third = await refreshed(introducing.other, me, second)
            await refreshed(keyed.other, me, third)
            for there in (keyed, replacing):
                await there.pass_time(GRACE)
            assert await refreshed(replacing.one, me, third) not in (second, third)
