"""``mintmark sessions``."""

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
        "idle_until", "expires_at", "last_exp", "last_kid",
    }  # fmt: skip
    assert (listed["rid"], listed["username"], listed["client_id"]) == (session.rid, "ada", "shop")
    assert (listed["scope"], listed["aud"], listed["amr"]) == ("orders:read", ["orders"], ["pwd"])
    row = shop("sessions", "list").out.splitlines()[1]
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
