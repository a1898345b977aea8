"""GET /revocations: the log in pages, in the words that the verifier reads."""

import pytest
from tests.http.surface import Surface, surface

from mintmark.core import keyring
from mintmark.core.feed import FeedPolicy, parse_page
from mintmark.core.log import Cursor
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.server import feed as server_feed
from mintmark.testing.clock import FakeClock
from mintmark.units import NumericDate


async def append(node: Surface, count: int, *, first: int = 0, lives: int = 3600) -> list[str]:
    """Put ``count`` events on the log, each by a change of the ring; the values that they deny."""
    store = node.store.keyring
    view = await store.read(node.issuer)
    values = [f"rid-{number:05}" for number in range(first, first + count)]
    until = NumericDate(view.now + lives)
    events = tuple((RevocationEvent(kind=Kind.RID, value=v, expires_at=until), "test") for v in values)
    after = keyring.request_rotation(view.ring, now=view.now)
    assert await store.swap(view.ring.generation, after, events=events)
    await node.bus.announce()
    return values


async def test_log_of_nobody_is_an_empty_complete_page(node: Surface):
    """Without a revocation the page has no events, is complete, and has a cursor to go on from."""
    answer = await node.http.get("/revocations")
    body = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert set(body) == {"issuer", "cursor", "complete", "events", "at"}
    assert (body["issuer"], body["complete"], body["events"]) == (node.issuer, True, [])
    assert body["at"] == node.clock.now()
    again = (await node.http.get("/revocations", params={"after": body["cursor"]})).json()
    assert (again["cursor"], again["events"]) == (body["cursor"], [])


async def test_logout_is_on_the_log_when_it_is_answered(node: Surface):
    """The event of a log-out can be read as soon as the log-out was answered, by its ``rid``, until the last
    token of the session cannot be accepted any more."""
    tokens = await node.log_in()
    await node.log_out(tokens["access_token"])
    [event] = (await node.http.get("/revocations")).json()["events"]
    assert event["expires_at"] > node.clock.now() + tokens["expires_in"]
    assert event == {"kind": "rid", "value": tokens["rid"], "expires_at": event["expires_at"]}


async def test_pages_are_what_the_verifier_reads(node: Surface):
    """The verifier's own parser takes a page, with every kind of event and nothing ignored."""
    store = node.store.keyring
    view = await store.read(node.issuer)
    until = NumericDate(view.now + 60)
    events = (
        RevocationEvent(kind=Kind.RID, value="a", expires_at=until),
        RevocationEvent(kind=Kind.JTI, value="b", expires_at=until),
        RevocationEvent(kind=Kind.KID, value="c", expires_at=until),
        RevocationEvent(kind=Kind.CLIENT, value="d", expires_at=until, not_before=NumericDate(0)),
        RevocationEvent(kind=Kind.ALL, value="", expires_at=until, not_before=view.now),
    )
    after = keyring.request_rotation(view.ring, now=view.now)
    await store.swap(view.ring.generation, after, events=tuple((event, "test") for event in events))
    body = (await node.http.get("/revocations")).content
    page = parse_page(body, issuer=node.issuer, policy=FeedPolicy())
    assert (page.events, page.ignored, page.complete) == (events, 0, True)


async def test_pages_join_without_gap_or_repetition(monkeypatch):
    """Following the cursor from page to page gives every event once, in order, and then ``complete``."""
    monkeypatch.setattr(server_feed, "PAGE", 10)
    async with surface() as node:
        values = await append(node, 35)
        found, complete, cursor = [], False, None
        sizes = []
        while not complete:
            page = (await node.http.get("/revocations", params={"after": cursor} if cursor else {})).json()
            found += [event["value"] for event in page["events"]]
            sizes.append(len(page["events"]))
            complete, cursor = page["complete"], page["cursor"]
        assert found == values
        assert sizes == [10, 10, 10, 5]


async def test_expired_events_are_not_told(node: Surface):
    """What no token can match any more is left out of a page."""
    assert isinstance(node.clock, FakeClock)
    await append(node, 1, lives=10)
    await append(node, 1, first=1, lives=100)
    node.clock.advance(11)
    events = (await node.http.get("/revocations")).json()["events"]
    assert [event["value"] for event in events] == ["rid-00001"]


@pytest.mark.parametrize("cursor", [Cursor(1, bytes(8)), Cursor(0, bytes(8)), Cursor(2**63 - 1, bytes(8))])
async def test_cursor_of_another_history_is_410(node: Surface, cursor: Cursor):
    """A cursor that this log never gave is 410: its holder takes a snapshot instead of missing events."""
    await append(node, 3)
    answer = await node.http.get("/revocations", params={"after": cursor.text()})
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_gone")


async def test_pruned_cursor_is_410(node: Surface):
    """Behind a cursor that was pruned nobody can say what is missing."""
    assert isinstance(node.clock, FakeClock)
    await append(node, 1, lives=10)
    cursor = (await node.http.get("/revocations")).json()["cursor"]
    await append(node, 1, first=1, lives=100)
    node.clock.advance(11)
    await node.store.revocations.prune(node.issuer)
    answer = await node.http.get("/revocations", params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_gone")


@pytest.mark.parametrize(
    "query", ["after=", "after=x", "after=%00", "after=%ff", "after=" + "A" * 1000, "after=a&after=b"]
)
async def test_malformed_cursor_is_400(node: Surface, query):
    """What cannot be a cursor is the caller's fault."""
    answer = await node.http.get(f"/revocations?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_cursor_that_comes_twice_is_400(node: Surface):
    """Two cursors, even two equal ones, are the caller's fault."""
    cursor = (await node.http.get("/revocations")).json()["cursor"]
    assert (await node.http.get(f"/revocations?after={cursor}&after={cursor}")).status_code == 400


async def test_unknown_parameters_of_a_page_are_ignored(node: Surface):
    """A cache buster does not matter."""
    assert (await node.http.get("/revocations?x=1&x=2")).status_code == 200


async def test_log_that_cannot_be_read_is_503(node: Surface):
    """With the store away there is no page, and Retry-After says to come again (I8)."""
    await node.store.close()
    answer = await node.http.get("/revocations")
    assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
