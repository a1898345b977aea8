"""GET /revocations: the log in pages, in the words that the verifier reads."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import httpx2
import pytest
from tests.http.streaming import stream
from tests.http.surface import ISSUER, Surface, surface, until

from mintmark.adapters.memory import MemoryStore
from mintmark.core import keyring
from mintmark.core.feed import FeedPolicy, Page, parse_page
from mintmark.core.feed_table import MEDIA_TYPE, parse_table
from mintmark.core.log import Cursor
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.http.app import create_app
from mintmark.ports.revocations import CursorGone
from mintmark.server import segment
from mintmark.server.feed import RevocationFeed
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults
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


async def all_pages(
    node: Surface, *, cursor: str | None = None, headers: Mapping[str, str] | None = None
) -> list[Page]:
    """The pages behind ``cursor`` up to the last, as a follower takes them."""
    pages: list[Page] = []
    while not pages or not pages[-1].complete:
        after = pages[-1].cursor if pages else cursor
        answer = await node.http.get(
            "/revocations", params={"after": after} if after else {}, headers=headers
        )
        parse = parse_table if answer.headers["content-type"] == MEDIA_TYPE else parse_page
        pages.append(parse(answer.content, issuer=node.issuer, policy=FeedPolicy()))
    return pages


async def cursor_behind(node: Surface, value: str) -> str:
    """The cursor of the event that denies ``value``."""
    read = await node.store.revocations.read(node.issuer, None, limit=10_000)
    assert not isinstance(read, CursorGone)
    [found] = [entry.cursor.text() for entry in read.entries if entry.event.value == value]
    return found


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


@pytest.fixture
def short(monkeypatch) -> None:
    """Pages that end at multiples of ten with at least four events, read three at a time."""
    monkeypatch.setattr(segment, "SEGMENT", 10)
    monkeypatch.setattr(segment, "LEAST", 4)
    monkeypatch.setattr(segment, "READ", 3)


TABLE = {"Accept": f"{MEDIA_TYPE}, application/json;q=0.9"}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("headers", [{}, TABLE])
async def test_pages_join_without_gap_or_repetition(node: Surface, headers):
    """Following the cursor from page to page gives every event once, in order, and then ``complete``."""
    values = await append(node, 35)
    pages = await all_pages(node, headers=headers)
    assert [event.value for page in pages for event in page.events] == values
    assert [len(page.events) for page in pages] == [10, 10, 10, 5]


@pytest.mark.usefixtures("short")
async def test_pages_end_at_the_same_events_wherever_they_began(node: Surface):
    """Whoever begins elsewhere gets short pages up to a common place, and from there what all others get."""
    values = await append(node, 60)
    common = {page.cursor for page in await all_pages(node)}
    for first, short_ones in ((1, 3), (5, 2), (8, 1), (10, 0), (17, 1)):
        cursor = await cursor_behind(node, values[first - 1])
        pages = await all_pages(node, cursor=cursor)
        assert [event.value for page in pages for event in page.events] == values[first:]
        assert all(len(page.events) <= 3 for page in pages[:short_ones])
        assert {page.cursor for page in pages[max(short_ones - 1, 0) :]} <= common


@pytest.mark.usefixtures("short")
async def test_nobody_has_long_pages_made_from_cursors_of_his_own_choice():
    """From any place but a common one a page is one short read and not kept, however many are asked for."""
    faults = Faults(clock=SYSTEM_CLOCK)
    async with surface(faults=faults) as node:
        values = await append(node, 60)
        await until(lambda: node.services.feed.heartbeat().cursor.seq == 60)
        cursors = [await cursor_behind(node, value) for value in values[:40] if value[-1] != "9"]
        before = faults.calls["revocations.read"]
        for cursor in cursors:
            answer = await node.http.get("/revocations", params={"after": cursor})
            assert len(answer.json()["events"]) <= 3
        assert faults.calls["revocations.read"] - before == len(cursors)
        assert not node.services.feed.segments._kept


@pytest.mark.usefixtures("short")
async def test_pages_of_a_log_of_which_little_is_left_are_not_short(node: Surface):
    """Where nearly everything has expired a page reaches over many multiples."""
    assert isinstance(node.clock, FakeClock)
    for n in range(0, 200, 20):
        await append(node, 19, first=n, lives=10)
        await append(node, 1, first=n + 19, lives=1_000)
    node.clock.advance(11)
    assert [len(page.events) for page in await all_pages(node)] == [4, 4, 2]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("headers", [{}, TABLE])
async def test_a_page_that_is_not_the_last_may_be_kept(node: Surface, headers):
    """It is the same for everybody for five minutes, has a tag to ask by, and says what it depends on."""
    await append(node, 15)
    page = await node.http.get("/revocations", headers=headers)
    assert page.headers["cache-control"] == "public, max-age=300"
    assert page.headers["vary"] == "Accept"
    known = {"If-None-Match": f'"x", W/{page.headers["etag"]}'}
    again = await node.http.get("/revocations", headers=headers | known)
    assert (again.status_code, again.content) == (304, b"")
    assert (again.headers["etag"], again.headers["vary"]) == (page.headers["etag"], "Accept")
    other = await node.http.get("/revocations", headers=headers | {"If-None-Match": '"x"'})
    assert (other.status_code, other.content) == (200, page.content)


@pytest.mark.usefixtures("short")
async def test_the_last_page_is_never_kept(node: Surface):
    """What is complete now is not a moment later: whoever kept it would miss a log-out."""
    await append(node, 15)
    first = await node.http.get("/revocations")
    last = await node.http.get("/revocations", params={"after": first.json()["cursor"]})
    assert last.json()["complete"]
    assert last.headers["cache-control"] == "no-store"
    assert "etag" not in last.headers


@pytest.mark.usefixtures("short")
async def test_a_page_is_kept_no_longer_than_the_log_goes_on_from_it(node: Surface):
    """The log may forget an event that has expired, and then its cursor is 410: no cache outlives that."""
    assert isinstance(node.clock, FakeClock)
    await append(node, 15, lives=100)
    page = await node.http.get("/revocations")
    assert page.headers["cache-control"] == "public, max-age=40"
    node.clock.advance(39)
    assert (await node.http.get("/revocations")).headers["cache-control"] == "public, max-age=1"
    node.clock.advance(1)
    assert (await node.http.get("/revocations")).headers["cache-control"] == "no-store"
    # Here, by the store's clock, it is kept until it cannot be gone on from.
    assert node.services.feed.segments._kept
    node.clock.advance(60)
    assert (await node.http.get("/revocations")).json()["events"] == []
    assert not node.services.feed.segments._kept


@pytest.mark.usefixtures("short")
async def test_a_page_that_many_read_is_read_from_the_store_once():
    """A hundred verifiers that start at once cost the store what one does."""
    faults = Faults(clock=SYSTEM_CLOCK)
    async with surface(faults=faults) as node:
        await append(node, 15)
        await until(lambda: node.services.feed.heartbeat().cursor.seq == 15)
        await node.http.get("/revocations")
        before = faults.calls["revocations.read"]
        pages = await asyncio.gather(*(node.http.get("/revocations") for _ in range(100)))
        assert len({page.content for page in pages}) == 1
        assert faults.calls["revocations.read"] - before <= 2


@pytest.mark.usefixtures("short")
async def test_every_node_writes_the_same_page(monkeypatch):
    """Bytes and tag depend on the log alone, so caches in front of many nodes keep one copy."""
    clock = FakeClock()
    store = MemoryStore(clock=clock, entropy=SYSTEM_ENTROPY)
    async with surface(store=store, clock=clock) as node:
        await append(node, 15)
        first = await node.http.get("/revocations", headers=TABLE)
        clock.advance(7)
        other = create_app(replace(node.services, feed=_another(node)))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=other), base_url=ISSUER) as http:
            second = await http.get("/revocations", headers=TABLE)
    assert (first.content, first.headers["etag"]) == (second.content, second.headers["etag"])


def _another(node: Surface) -> RevocationFeed:
    services = node.services
    return RevocationFeed(
        node.issuer,
        log=node.store.revocations,
        bus=node.bus,
        clock=node.clock,
        audit=services.audit,
        limit=1,
    )


@pytest.mark.usefixtures("short")
async def test_a_restored_store_keeps_no_page_of_the_other_history(node: Surface):
    """As soon as the node has noticed that its log is another one, it answers with that one alone."""
    assert isinstance(node.store, MemoryStore)
    backup = node.store.data.backup()
    await append(node, 15)
    await until(lambda: node.services.feed.heartbeat().cursor.seq == 15)
    before = await node.http.get("/revocations")
    assert before.headers["cache-control"].startswith("public")
    node.store.data.restore(backup)
    values = await append(node, 15, first=100)
    await until(lambda: node.services.feed.followers == 0 and not node.services.feed.segments._kept)
    after = (await node.http.get("/revocations")).json()
    assert [event["value"] for event in after["events"]] == values[:10]


@pytest.mark.parametrize(
    ("accept", "compact"),
    [
        (None, False),
        ("*/*", False),
        ("application/*", False),
        ("application/json", False),
        (MEDIA_TYPE, True),
        (f"text/html, {MEDIA_TYPE.upper()} ; q=0.5", True),
        (f"{MEDIA_TYPE};q=0", False),
        (f"{MEDIA_TYPE};v=1;q=0.000", False),
        (f"{MEDIA_TYPE}x", False),
        (";;,,=;q=", False),
    ],
)
async def test_the_compact_form_is_for_who_names_it(node: Surface, accept, compact):
    """People and old verifiers get JSON; both forms say that the answer depends on what was asked for."""
    values = await append(node, 3)
    answer = await node.http.get("/revocations", headers={} if accept is None else {"Accept": accept})
    expected = MEDIA_TYPE if compact else "application/json; charset=utf-8"
    assert (answer.headers["content-type"], answer.headers["vary"]) == (expected, "Accept")
    parse = parse_table if compact else parse_page
    page = parse(answer.content, issuer=node.issuer, policy=FeedPolicy())
    assert [event.value for event in page.events] == values


# --- protected by a token ----------------------------------------------------------------------

FEED_TOKEN = "feed-token-0123456789"
NEXT_TOKEN = "feed-token-of-next-year"


@pytest.mark.parametrize("path", ["/revocations", "/revocations/stream"])
@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], None),
        ([("Authorization", "Bearer " + FEED_TOKEN[:-1])], "invalid_token"),
        ([("Authorization", "Bearer " + FEED_TOKEN + "0")], "invalid_token"),
        ([("Authorization", "Bearer")], "invalid_token"),
        ([("Authorization", "Bearer \xff")], "invalid_token"),
        ([("Authorization", "Basic " + FEED_TOKEN)], "invalid_token"),
        ([("Authorization", "Bearer " + FEED_TOKEN)] * 2, "invalid_token"),
    ],
)
async def test_a_protected_feed_is_401_without_its_token(path, headers, error):
    """Pages and streams alike name the scheme (RFC 6750 s.3), and repeat nothing of what was shown."""
    async with surface(feed_tokens=(FEED_TOKEN, NEXT_TOKEN)) as node:
        await append(node, 1)
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        answer = await node.http.get(path, headers=raw)
    assert answer.status_code == 401
    challenge = 'Bearer realm="mintmark"' + (f', error="{error}"' if error else "")
    assert answer.headers["www-authenticate"] == challenge
    assert answer.headers["cache-control"] == "no-store"
    assert "rid-" not in answer.text
    assert FEED_TOKEN[:-1] not in answer.text


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("token", [FEED_TOKEN, NEXT_TOKEN])
async def test_a_protected_feed_is_read_with_any_of_its_tokens(token):
    """Two tokens may be good at once, while one replaces the other; no shared cache keeps a page."""
    async with surface(feed_tokens=(FEED_TOKEN, NEXT_TOKEN)) as node:
        await append(node, 15)
        shown = {"Authorization": f"bearer  {token}"}
        page = await node.http.get("/revocations", headers=shown)
        assert (page.status_code, page.headers["cache-control"]) == (200, "private, max-age=300")
        async with stream(node.app, authorization=shown["Authorization"]) as follower:
            assert (await follower.next_of("heartbeat")).data["cursor"]
        others = ("/.well-known/jwks.json", "/.well-known/openid-configuration", "/readyz")
        assert {(await node.http.get(path)).status_code for path in others} == {200}


async def test_the_token_of_the_feed_is_in_no_text_of_ours():
    """Neither what composes the node nor what it counts and logs shows it."""
    async with surface(feed_tokens=(FEED_TOKEN,)) as node:
        await node.http.get("/revocations", headers={"Authorization": f"Bearer {FEED_TOKEN}"})
        metrics = (await node.http.get("/metrics")).text
        assert FEED_TOKEN not in repr(node.services) + metrics


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
