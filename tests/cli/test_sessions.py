"""``mintmark sessions``."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mintmark.core.sessions import EndCause


def read(cli, rid):
    """The session's row."""
    issuer = cli.settings.issuer

    async def one(store):
        return (await store.sessions.read(issuer, rid)).session

    return cli.within(one)


def test_sessions_are_listed_without_anything_that_refreshes_them(shop):
    """A session is shown by its public id; no key, no sealed half and no token of it is."""
    session, token = shop.add_session("ada", "shop")
    (listed,) = shop.ok("sessions", "list")["sessions"]
    assert set(listed) == {
        "rid", "sub", "username", "client_id", "scope", "aud", "auth_time", "amr", "created_at", "rotated_at",
        "idle_until", "expires_at", "last_exp", "last_kid", "device", "address", "used_at",
    }  # fmt: skip
    assert (listed["rid"], listed["username"], listed["client_id"]) == (session.rid, "ada", "shop")
    assert (listed["scope"], listed["aud"], listed["amr"]) == ("orders:read", ["orders"], ["pwd"])
    assert (listed["device"], listed["address"]) == (session.device, "192.0.2.7")
    row = shop("sessions", "list").out.splitlines()[1]
    assert "Mozilla/5.0 (X11; Linux x86_64) Chrome/1…  192.0.2.7" in row
    assert row.split()[:4] == [session.rid, "ada", "shop", "orders:read"]
    assert token not in row


def test_list_can_be_narrowed_to_a_user_and_says_when_there_is_more(shop):
    """--user lists that user's alone; a full page says on standard error that it may not be all."""
    shop.ok("users", "add", "bob")
    for name in ("ada", "ada", "bob"):
        shop.add_session(name, "shop")
    assert len(shop.ok("sessions", "list", "--user", "ADA")["sessions"]) == 2
    page = shop("sessions", "list", "--limit", "2", "--json")
    assert (len(page.json["sessions"]), page.json["complete"]) == (2, False)
    assert page.err == "mintmark: there may be more than these 2; --limit shows more\n"
    assert shop.ok("sessions", "list", "--limit", "4")["complete"] is True


def test_one_session_is_revoked_and_the_others_live_on(shop):
    """The session has ended by an administrator's hand; repeated, it is done already."""
    session, _ = shop.add_session("ada", "shop")
    other, _ = shop.add_session("ada", "shop")
    assert shop("sessions", "revoke", session.rid).out == f"Revoked session {session.rid}.\n"
    assert (
        shop("sessions", "revoke", session.rid).out
        == f"Session {session.rid} had ended before; nothing changed.\n"
    )
    assert read(shop, session.rid).end_cause is EndCause.ADMIN
    assert read(shop, other.rid).ended_at is None


def test_all_sessions_of_a_user_are_revoked(shop):
    """Each of the user's sessions ends, with its event on the log, and nobody else's."""
    shop.ok("users", "add", "bob")
    rids = {shop.add_session("ada", "shop")[0].rid for _ in range(3)}
    left, _ = shop.add_session("bob", "shop")
    assert set(shop.ok("sessions", "revoke", "--user", "ada")["rids"]) == rids
    issuer = shop.settings.issuer

    async def logged(store):
        return {entry.event.value for entry in (await store.revocations.read(issuer, None, limit=9)).entries}

    assert shop.within(logged) == rids
    assert [one["rid"] for one in shop.ok("sessions", "list")["sessions"]] == [left.rid]
    assert shop("sessions", "revoke", "--user", "ada").out == "Revoked sessions: 0.\n"


# --- everybody -----------------------------------------------------------------------------------


def log_of(cli):
    """The entries of the revocation log."""
    issuer = cli.settings.issuer

    async def read(store):
        return (await store.revocations.read(issuer, None, limit=100)).entries

    return cli.within(read)


def test_everybody_is_logged_out_by_one_event(shop):
    """--all ends every session and denies every token until now, and says for how long nothing is minted."""
    sessions = [shop.add_session("ada", "shop")[0] for _ in range(3)]
    answer = shop.ok("sessions", "revoke", "--all")
    timing = shop.settings.timing
    [entry] = log_of(shop)
    assert (entry.event.kind, entry.cause) == ("all", "admin")
    assert entry.event.not_before == answer["not_before"]
    assert answer["revoked"] is True
    ahead = timing.clock_skew + timing.propagation + 1
    assert ahead - 60 <= answer["not_before"] - sessions[0].created_at <= ahead + 60
    assert answer["mints_from"] == answer["not_before"] + 6
    assert shop.ok("sessions", "list")["sessions"] == []
    assert all(read(shop, one.rid).ended_at is not None for one in sessions)


def test_dry_run_of_everybody_changes_nothing(shop):
    """It counts the sessions and says what the pause would be; the log and the sessions stay as they are."""
    session, _ = shop.add_session("ada", "shop")
    answer = shop.ok("sessions", "revoke", "--all", "--dry-run")
    assert (answer["revoked"], answer["dry_run"], answer["sessions"], answer["complete"]) == (
        False,
        True,
        1,
        True,
    )
    assert 40 <= answer["pause"] <= 43
    assert log_of(shop) == ()
    assert read(shop, session.rid).ended_at is None
    told = shop("sessions", "revoke", "--all", "--dry-run").out.splitlines()
    assert told[0] == "Nothing was changed. Sessions that would end: 1."
    assert told[2].startswith("Nothing is minted for 4")


@pytest.mark.parametrize("form", ["number", "zulu", "offset", "space"])
def test_what_was_issued_later_is_spared(shop, form):
    """--issued-before in any of its forms: sessions that began later live on, and minting does not pause."""
    session, _ = shop.add_session("ada", "shop")
    at = datetime.fromtimestamp(session.created_at - 60, UTC)
    text = {
        "number": str(session.created_at - 60),
        "zulu": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "offset": at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
        "space": f"{at:%Y-%m-%d %H:%M:%S}Z",
    }[form]
    answer = shop.ok("sessions", "revoke", "--all", "--issued-before", text)
    assert (answer["not_before"], answer["pause"]) == (session.created_at - 60, 0)
    assert [one["rid"] for one in shop.ok("sessions", "list")["sessions"]] == [session.rid]
    assert "Minting does not pause" in shop("sessions", "revoke", "--all", "--issued-before", text).out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-20",
        "2026-11-20T07:00:00",
        "1e9",
        "-5",
        "9" * 11,
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_time_without_a_zone_is_no_time(shop, text):
    """What could be read in two ways, or in none, revokes nothing."""
    shop.add_session("ada", "shop")
    result = shop("sessions", "revoke", "--all", "--issued-before", text)
    assert result.status == 2
    assert log_of(shop) == ()


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--all", "--user", "ada"),
        ("A" * 22, "--all"),
        ("--user", "ada", "--dry-run"),
        ("--user", "ada", "--issued-before", "1"),
        ("A" * 22, "--user", "ada"),
    ],
)
def test_whom_to_log_out_is_said_once(shop, argv):
    """None, or two at once, or options that go with --all alone: a mistake, and nothing is revoked."""
    session, _ = shop.add_session("ada", "shop")
    assert shop("sessions", "revoke", *argv).status == 2
    assert read(shop, session.rid).ended_at is None
