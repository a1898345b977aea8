"""What a node that was taken over gets signed by another: nothing that its own requests would not give it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import minting, peering, sessions
from mintmark.core.directory import Client, User
from mintmark.core.minting import TokenRequest
from mintmark.core.peering import PeerRefusal, asked, refusal
from mintmark.core.sessions import EndCause, Session, SessionStart
from mintmark.core.timing import Timing
from mintmark.units import ClientId, Issuer, NumericDate, Sub

ISSUER = Issuer("https://auth.example.com")
TIMING = Timing()
NOW = NumericDate(1_800_000_000)
ALICE = User(
    issuer=ISSUER, sub=Sub("usr_alice"), username="alice", password_hash="", scopes=("read", "write"),
    created_at=NOW, password_changed_at=NOW,
)  # fmt: skip
SPA = Client(
    issuer=ISSUER, client_id=ClientId("spa"), name="spa", secret_hash=None, grant_types=("refresh_token",),
    audiences=("orders", "stock"), scopes=("read", "write", "admin"), first_party=True, created_at=NOW,
)  # fmt: skip
SERVICE = replace(
    SPA, client_id=ClientId("service"), secret_hash=b"x" * 32, grant_types=("client_credentials",)
)


def session_of(*, scope: tuple[str, ...] = ("read",), audience: tuple[str, ...] = ("orders",)) -> Session:
    begin = SessionStart(
        issuer=ISSUER, sub=ALICE.sub, client_id=SPA.client_id, scope=scope, audience=audience
    )
    session, _ = sessions.start(begin, rid=b"r" * 16, seed=b"s" * 32, timing=TIMING, now=NOW)
    return replace(session, last_exp=NumericDate(NOW + TIMING.access_ttl))


SESSION = session_of()


def claims(**changes: Any) -> dict[str, Any]:
    """What a node mints for Alice's session at NOW, but for ``changes``; None takes a claim out."""
    request = TokenRequest(
        iss=ISSUER, sub=ALICE.sub, client_id=SPA.client_id, aud=("orders",), scope=("read",),
        rid=SESSION.rid, auth_time=SESSION.auth_time, amr=SESSION.amr,
    )  # fmt: skip
    planned = minting.plan(request, now=NOW, ttl=TIMING.access_ttl, random=b"x" * 24)
    made = json.loads(planned.payload) | changes
    return {name: value for name, value in made.items() if value is not None}


def own(**changes: Any) -> dict[str, Any]:
    """What a node mints for a service in its own name."""
    without = {"rid": None, "auth_time": None, "amr": None}
    return claims(**({"sub": "service", "client_id": "service"} | without | changes))


def judged(
    made: dict[str, Any],
    *,
    client: Client | None = SPA,
    user: User | None = ALICE,
    session: Session | None = SESSION,
    now: int = NOW,
) -> PeerRefusal | None:
    found = asked(json.dumps(made).encode())
    if found is None:
        return PeerRefusal.BAD_CLAIMS
    return refusal(
        found,
        issuer=ISSUER,
        client=client,
        user=user,
        session=session,
        timing=TIMING,
        now=NumericDate(now),
    )


def test_what_nodes_mint_is_signed():
    """The claims of a session's and of a service's token pass, at once and a little later."""
    assert judged(claims()) is None
    assert judged(claims(), now=NOW + 2) is None
    assert judged(own(), client=SERVICE, user=None, session=None) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://other.example.com"}, PeerRefusal.UNKNOWN_ISSUER),
        ({"sub": "usr_bob"}, PeerRefusal.NOT_COVERED),
        ({"sub": "spa"}, PeerRefusal.NOT_COVERED),
        ({"client_id": "service"}, PeerRefusal.NOT_COVERED),
        ({"scope": "read write"}, PeerRefusal.NOT_COVERED),
        ({"scope": "read admin"}, PeerRefusal.NOT_COVERED),
        ({"aud": "stock"}, PeerRefusal.NOT_COVERED),
        ({"aud": ["orders", "stock"]}, PeerRefusal.NOT_COVERED),
        ({"aud": "elsewhere"}, PeerRefusal.NOT_COVERED),
        ({"rid": "A" * 22}, PeerRefusal.NOT_COVERED),
        ({"auth_time": NOW + 1}, PeerRefusal.NOT_COVERED),
        ({"auth_time": None}, PeerRefusal.NOT_COVERED),
        ({"amr": ["pwd", "otp"]}, PeerRefusal.NOT_COVERED),
        ({"amr": None}, PeerRefusal.NOT_COVERED),
        ({"rid": None}, PeerRefusal.NOT_COVERED),
        ({"rid": None, "sub": "spa", "auth_time": None, "amr": None}, PeerRefusal.NOT_COVERED),
        ({"exp": NOW + TIMING.access_ttl + 1}, PeerRefusal.BAD_TIMES),
        ({"exp": 2**62}, PeerRefusal.BAD_TIMES),
        ({"exp": NOW - 5}, PeerRefusal.BAD_TIMES),
        ({"exp": NOW + 600, "iat": NOW + 60}, PeerRefusal.BAD_TIMES),
        ({"iat": NOW - 3600}, PeerRefusal.BAD_TIMES),
        ({"iat": -(2**62)}, PeerRefusal.BAD_TIMES),
    ],
)
def test_what_the_session_does_not_cover_is_refused(changes, reason):
    """Another subject, client, scope, audience, session, issuer or a longer life is signed for nobody."""
    assert judged(claims(**changes)) is reason


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": ["admin"]}, {"nbf": NOW}, {"cnf": {"jkt": "x"}}, {"act": {"sub": "x"}}, {"acr": "high"},
        {"typ": "JWT"}, {"aud": None}, {"aud": []}, {"aud": [1]}, {"aud": {"orders": 1}}, {"sub": 7},
        {"exp": True}, {"exp": NOW + 60.0}, {"exp": str(NOW + 60)}, {"exp": None}, {"iat": None},
        {"jti": None}, {"jti": "short"}, {"jti": "A" * 5000}, {"scope": ["read"]}, {"scope": "read  write"},
        {"scope": ""}, {"rid": 1}, {"amr": [None]}, {"auth_time": "now"}, {"iss": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_nodes_do_not_mint_is_no_claim(changes):
    """A claim that minting does not make, or of another type, is refused before anything is looked up."""
    made = claims(**changes)
    if changes == {"aud": None}:
        made.pop("aud", None)
    assert judged(made) is PeerRefusal.BAD_CLAIMS


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 5000, b"9" * 5632,
        b'{"iss":"a","iss":"b"}', b'{"exp":1e400}', b'{"exp":NaN}', b"{}" + b" " * 6000, b'{"a":"\\ud800"}',
    ],
    ids=range(14),
)  # fmt: skip
def test_hostile_json_is_no_claim(payload):
    """Bytes that two parsers could read in two ways, or that cost much to read, are refused."""
    assert asked(payload) is None


def test_duplicate_claim_is_refused():
    """A second ``sub`` could be read by another parser than the one that was checked."""
    payload = json.dumps(claims()).encode()
    assert asked(payload) is not None
    assert asked(payload[:-1] + b',"sub":"usr_bob"}') is None


@pytest.mark.parametrize(
    "ended",
    [
        {"session": None},
        {"session": replace(SESSION, ended_at=NOW, end_cause=EndCause.LOGOUT)},
        {"session": replace(SESSION, expires_at=NOW)},
        {"session": replace(SESSION, idle_until=NOW)},
        {"user": None},
        {"user": replace(ALICE, disabled_at=NOW)},
        {"user": replace(ALICE, locked_until=NumericDate(NOW + 1))},
        {"client": None},
    ],
    ids=["unknown", "ended", "expired", "idle", "no_user", "disabled", "locked", "no_client"],
)
def test_what_is_over_is_signed_for_nobody(ended):
    """A session that has ended, a user who is disabled or locked, a client that was removed get no token (R5,
    PW12)."""
    assert judged(claims(), **ended) is PeerRefusal.NOT_LIVE


def test_lock_that_is_over_keeps_nobody_from_a_signature():
    """PW12: the second at which a lock ends is no second of it."""
    assert judged(claims(), user=replace(ALICE, locked_until=NOW)) is None


@pytest.mark.parametrize(
    "less",
    [
        {"user": replace(ALICE, scopes=("write",))},
        {"client": replace(SPA, scopes=("write",))},
        {"client": replace(SPA, audiences=("stock",))},
    ],
    ids=["user", "client_scope", "client_audience"],
)
def test_what_was_taken_from_user_or_client_is_in_no_token(less):
    """A session keeps what it began with; a token has what user and client may have now (R6)."""
    assert judged(claims(), **less) is PeerRefusal.NOT_COVERED


def test_issuers_own_audience_is_signed_alone_and_for_first_party_sessions_only():
    """Nobody gets a token for us beside another audience, through another client, or without a user."""
    assert judged(claims(aud=ISSUER)) is None
    assert judged(claims(aud=[ISSUER, "orders"])) is PeerRefusal.NOT_COVERED
    assert judged(claims(aud=ISSUER), client=replace(SPA, first_party=False)) is PeerRefusal.NOT_COVERED
    assert judged(own(aud=ISSUER), client=SERVICE) is PeerRefusal.NOT_COVERED


@pytest.mark.parametrize(("not_before", "reason"), [(NOW - 6, None), (NOW - 5, PeerRefusal.NOT_COVERED)])
def test_what_a_revocation_by_time_denies_is_signed_for_nobody(not_before, reason):
    """Claims with an ``iat`` up to the client's ``not_before`` are refused, whoever asks, and later ones not.

    A node that was taken over, or read its client before the event, would get tokens that are revoked.
    """
    denied = NumericDate(not_before)
    assert judged(claims(), client=replace(SPA, not_before=denied)) is reason
    service = replace(SERVICE, not_before=denied)
    assert judged(own(), client=service, user=None, session=None) is reason


def test_token_that_outlives_its_sessions_row_is_refused():
    """An ``exp`` later than the row's ``last_exp`` would outlive the event that denies it (R5)."""
    assert judged(claims(), session=replace(SESSION, last_exp=NOW)) is PeerRefusal.NOT_COVERED


@pytest.mark.parametrize(
    "client",
    [
        replace(SERVICE, secret_hash=None),
        replace(SERVICE, grant_types=("refresh_token",)),
        replace(SERVICE, scopes=()),
        replace(SERVICE, audiences=("stock",)),
        replace(SERVICE, client_id=ClientId("other")),
    ],
    ids=["public", "no_grant", "no_scope", "no_audience", "another"],
)
def test_services_get_what_they_may_ask_for(client):
    """Without a session only a service's own token is signed, of what the service is registered for."""
    assert judged(own(), client=client, user=None, session=None) is PeerRefusal.NOT_COVERED


def test_service_cannot_pass_for_a_user():
    """A token without a session is about its client, whatever subject is asked for."""
    made = own(sub="usr_alice")
    assert judged(made, client=SERVICE, user=None, session=None) is PeerRefusal.NOT_COVERED


@given(
    skew=st.integers(-TIMING.clock_skew, TIMING.clock_skew),
    passed=st.integers(0, peering.LATE),
    ttl=st.integers(1, TIMING.access_ttl),
)
def test_clocks_within_the_skew_lose_nothing(skew, passed, ttl):
    """Whatever a node mints whose clock is as far off as it may be, a peer finds timely."""
    planned = minting.plan(
        TokenRequest(iss=ISSUER, sub=ALICE.sub, client_id=SPA.client_id, aud=("orders",)),
        now=NumericDate(NOW + skew), ttl=ttl, random=b"x" * 24,
    )  # fmt: skip
    found = asked(planned.payload)
    assert found is not None
    assert not peering.untimely(found, TIMING, NumericDate(NOW + passed))
