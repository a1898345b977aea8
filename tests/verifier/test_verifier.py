"""The object that services hold: what goes in, what comes out, and how it begins and ends."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark import (
    ConfigurationError,
    EventName,
    InsufficientScope,
    InvalidToken,
    Issuer,
    VerificationError,
    Verifier,
    VerifierUnavailable,
)
from mintmark.testing import FakeClock, FakeIssuer, Fault, SigningKey

pytestmark = pytest.mark.anyio

ISSUER = "https://auth.example.com"
NOW = 1_800_000_000
KEY = SigningKey.generate("ES256")
JWKS = {"keys": [KEY.public_jwk]}


def token(**claims) -> str:
    """A good token of ``ISSUER``, unless ``claims`` say otherwise; None takes one out."""
    body = {
        "iss": ISSUER,
        "sub": "usr_1",
        "aud": "orders",
        "client_id": "app",
        "iat": NOW - 5,
        "exp": NOW + 900,
        "jti": "t1",
        "scope": "orders:read orders:write",
    } | claims
    header = {"alg": KEY.alg, "kid": KEY.kid, "typ": "at+jwt"}
    return KEY.sign(header, {name: value for name, value in body.items() if value is not None})


def static(**options) -> Verifier:
    """An offline verifier at ``NOW``."""
    settings: dict[str, Any] = {"issuer": ISSUER, "audience": "orders", "clock": FakeClock(NOW)} | options
    return Verifier.static(JWKS, **settings)


# --- offline -----------------------------------------------------------------------------------


def test_a_static_key_set_needs_no_network():
    """Keys, issuer and audience given: a token is verified, and says that no logout is known of."""
    verified = static().verify(token(plan="gold"))
    assert verified.sub == "usr_1"
    assert verified.scopes == {"orders:read", "orders:write"}
    assert verified.claims["plan"] == "gold"
    assert verified.revocation == "unsupported"


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA"])
def test_every_algorithm_verifies(alg):
    """A token of each of the four passes, made with nothing of the code that verifies it."""
    key = SigningKey.generate(alg)
    raw = key.sign(
        {"alg": alg, "kid": key.kid, "typ": "at+jwt"},
        {
            "iss": ISSUER,
            "sub": "s",
            "aud": ["x", "orders"],
            "client_id": "app",
            "iat": NOW,
            "exp": NOW + 60,
            "jti": "t",
        },
    )
    verifier = Verifier.static(
        {"keys": [key.public_jwk]}, issuer=ISSUER, audience="orders", clock=FakeClock(NOW)
    )
    assert verifier.verify(raw).kid == key.kid


@pytest.mark.parametrize("jwks", [b'{"keys":[%s]}', '{"keys":[%s]}'])
def test_a_static_key_set_may_be_text(jwks):
    """Bytes and text of a document do as well as a mapping."""
    jwk = json.dumps(KEY.public_jwk)
    document = jwks % (jwk.encode() if isinstance(jwks, bytes) else jwk)
    verifier = Verifier.static(document, issuer=ISSUER, audience="orders", clock=lambda: NOW)
    assert verifier.verify(token()).sub == "usr_1"


@pytest.mark.parametrize("jwks", [{}, {"keys": []}, b"", "no JSON", {"keys": [{"kty": "oct", "k": "AAAA"}]}])
def test_a_static_key_set_without_a_usable_key_is_a_mistake(jwks):
    """It is said at the start, not with the first token."""
    with pytest.raises(ConfigurationError, match=r"\Ajwks: "):
        Verifier.static(jwks, issuer=ISSUER, audience="orders")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"audience": ""}, "audience"),
        ({"audience": ()}, "audience"),
        ({"audience": 7}, "audience"),
        ({"audience": [b"orders"]}, "audience"),
        ({"algorithms": "none"}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ()}, "algorithms"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": 301}, "leeway"),
        ({"leeway": 1.5}, "leeway"),
        ({"profile": "id"}, "profile"),
        ({"clock": 7}, "clock"),
    ],
)
def test_a_wrong_setting_names_itself(options, key):
    """ConfigurationError, with the setting's name first."""
    with pytest.raises(ConfigurationError, match=rf"\A{key}: "):
        static(**options)


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "auth.example.com",
        "http://auth.example.com",
        "https://",
        "https://auth.example.com?x=1",
        "https://auth.example.com#",
        "https://user@auth.example.com",
        "https://auth.example.com/\\evil",
        "https://auth.example.com/\n",
        "ftp://auth.example.com",
        "https://auth.example.com:0",
        "https://auth.example.com:99999",
    ],
)
def test_an_issuer_is_an_https_url(issuer):
    """Plain http is for loopback; whatever has two readings is refused."""
    with pytest.raises(ConfigurationError, match=r"\Aissuer: "):
        Verifier(issuer, audience="orders")


def test_options_of_a_following_verifier_are_checked():
    """on_stale, feed_bound, on_cold and the number of issuers."""
    for options in ({"on_stale": "maybe"}, {"feed_bound": 5}, {"on_cold": "hot"}):
        with pytest.raises(ConfigurationError, match=rf"\A{next(iter(options))}: "):
            Verifier(ISSUER, audience="orders", **options)
    with pytest.raises(ConfigurationError, match=r"\Aissuer: "):
        Verifier.many()
    with pytest.raises(ConfigurationError, match=r"\Aissuer: "):
        Verifier.many(Issuer(issuer=ISSUER, audience="a"), Issuer(issuer=ISSUER, audience="b"))


@pytest.mark.parametrize("clock", [lambda: NOW, lambda: NOW + 0.9, FakeClock(NOW)])
def test_a_clock_is_an_object_with_now_or_a_callable(clock):
    """Both tell the time of the checks; fractions are cut off."""
    assert static(clock=clock).verify(token(iat=NOW - 99, exp=NOW - 29)).sub == "usr_1"
    with pytest.raises(InvalidToken) as refused:
        static(clock=clock).verify(token(iat=NOW - 99, exp=NOW - 30))
    assert refused.value.code == "expired"


def test_a_clock_may_have_now_alone():
    """An object with nothing but ``now()`` will do."""

    class Wall:
        def now(self):
            return NOW

    assert static(clock=Wall()).verify(token()).sub == "usr_1"


def test_leeway_is_one_number_for_all_when_given():
    """``leeway=0`` means none, for exp too."""
    verifier = static(leeway=0)
    assert verifier.verify(token(exp=NOW + 1)).exp == NOW + 1
    for claims in ({"exp": NOW}, {"nbf": NOW + 1}, {"iat": NOW + 1}):
        with pytest.raises(InvalidToken):
            verifier.verify(token(**claims))
    assert static(leeway=120).verify(token(iat=NOW + 120, exp=NOW + 200)).iat == NOW + 120


# --- answers -----------------------------------------------------------------------------------


def test_scopes_are_required_in_any_spelling():
    """Text with spaces, a list, or a requirement made once; what lacks is named."""
    verifier = static()
    for scopes in ("orders:read", "orders:read orders:write", ["orders:read"], {"orders:write"}, (), ""):
        assert verifier.verify(token(), scopes=scopes).jti == "t1"
    with pytest.raises(InsufficientScope) as refused:
        verifier.verify(token(), scopes="orders:read orders:delete admin")
    assert refused.value.missing == ("admin", "orders:delete")
    with pytest.raises(InsufficientScope):
        verifier.require("admin").verify(token())
    assert verifier.require("orders:read").verify(token()).jti == "t1"
    for spaced in (["orders:read orders:write"], ["orders:read", " orders:write "]):
        assert verifier.verify(token(), scopes=spaced).jti == "t1"
        assert verifier.require(*spaced).verify(token()).jti == "t1"
        with pytest.raises(InsufficientScope) as refused:
            verifier.require(*spaced, "admin root").verify(token())
        assert refused.value.missing == ("admin", "root")


async def test_async_and_sync_give_the_same_answers():
    """averify is verify for asyncio."""
    verifier = static()
    assert await verifier.averify(token()) == verifier.verify(token())
    assert (await verifier.require("orders:read").averify(token())).sub == "usr_1"
    with pytest.raises(InvalidToken):
        await verifier.averify("x")


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())))
def test_no_input_brings_anything_but_the_three_errors(raw):
    """VF12: whatever goes in."""
    with pytest.raises(InvalidToken):
        static().verify(raw)


@given(st.data())
def test_no_change_of_a_good_token_brings_anything_but_the_three_errors(data):
    """VF12: a token with characters replaced, cut or doubled is refused, or, changed back, still good."""
    raw = list(token())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position] = data.draw(st.sampled_from(["", ".", "=", "A", "AA", "\x00", "é", "-", "_"]))
    with contextlib.suppress(VerificationError):
        static().verify("".join(raw))


def test_an_unknown_key_offline_is_invalid():
    """There is nobody to ask."""
    other = SigningKey.generate()
    with pytest.raises(InvalidToken) as refused:
        static().verify(other.sign({"alg": "ES256", "kid": other.kid, "typ": "at+jwt"}, {"iss": ISSUER}))
    assert refused.value.code == "missing_claim"
    claims = {"iss": ISSUER, "sub": "s", "aud": "orders", "client_id": "a", "iat": NOW, "exp": NOW + 9}
    raw = other.sign({"alg": "ES256", "kid": other.kid, "typ": "at+jwt"}, claims | {"jti": "t"})
    with pytest.raises(InvalidToken) as refused:
        static().verify(raw)
    assert refused.value.code == "unknown_kid"


# --- life --------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_first_token(issuer, follow):
    """Making a verifier costs nothing and cannot fail because of the network."""
    follow(issuer)
    assert issuer.requests("discovery") == 0


def test_start_loads_everything_and_says_whether_it_is_ready(issuer, follow):
    """Keys and revocations are there before the first request."""
    verifier = follow(issuer)
    assert not verifier.ready()
    assert verifier.start()
    assert verifier.ready()
    assert (issuer.requests("jwks"), issuer.requests("feed")) == (1, 1)
    assert verifier.start()


def test_start_may_insist(issuer, follow):
    """``on_cold="require"`` raises where ``"lazy"`` goes on trying."""
    with issuer.outage():
        assert not follow(issuer).start()
        with pytest.raises(VerifierUnavailable):
            follow(issuer, on_cold="require").start()


async def test_async_context(issuer, clock):
    """``async with`` starts and closes."""
    async with Verifier(issuer.issuer, audience="api", clock=clock) as verifier:
        assert verifier.ready()
        assert (await verifier.averify(issuer.mint())).sub == "usr_1"
    with pytest.raises(VerifierUnavailable):
        await verifier.averify(issuer.mint())


def test_a_closed_verifier_answers_503(issuer, clock):
    """And its thread is gone."""
    with Verifier(issuer.issuer, audience="api", clock=clock) as verifier:
        verifier.verify(issuer.mint())
    with pytest.raises(VerifierUnavailable) as refused:
        verifier.verify(issuer.mint())
    assert refused.value.code == "closed"
    assert not verifier.ready()
    assert "mintmark-verifier" not in {thread.name for thread in threading.enumerate()}
    verifier.close()


def test_closing_wakes_whoever_waits(plain_issuer, clock):
    """Nobody is left waiting for a fetch that nobody makes."""
    verifier = Verifier(plain_issuer.issuer, audience="api", clock=clock)
    answers: list[BaseException] = []

    def wait() -> None:
        try:
            verifier.verify(plain_issuer.mint())
        except VerifierUnavailable as error:
            answers.append(error)

    with plain_issuer.fail(Fault.HOLD):
        waiting = threading.Thread(target=wait)
        waiting.start()
        plain_issuer.wait_for_requests("discovery")
        verifier.close()
        waiting.join(20)
    assert [type(answer) for answer in answers] == [VerifierUnavailable]


def test_dropping_the_last_reference_ends_the_thread(issuer, clock):
    """A verifier that nobody closes leaves nothing behind."""
    verifier = Verifier(issuer.issuer, audience="api", clock=clock)
    verifier.verify(issuer.mint())
    [thread] = [thread for thread in threading.enumerate() if thread.name == "mintmark-verifier"]
    gone = weakref.ref(verifier)
    del verifier
    gc.collect()
    assert gone() is None
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_verifier_survives_fork(plain_issuer, follow):
    """The child verifies with what the parent knew, and fetches new keys with a thread of its own."""
    verifier = follow(plain_issuer)
    verifier.verify(plain_issuer.mint())
    known = plain_issuer.mint()
    plain_issuer.rotate()
    new = plain_issuer.mint()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            if verifier.verify(known).sub == "usr_1" and verifier.verify(new).kid == plain_issuer.kid:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert plain_issuer.requests("jwks") == 2
    assert verifier.verify(new).kid == plain_issuer.kid
    assert plain_issuer.requests("jwks") == 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_follows_the_feed_itself(issuer, follow, recorder):
    """A logout after the fork is known in the child."""
    verifier = follow(issuer)
    verifier.start()
    raw = issuer.mint(rid="session-1")
    go, gone = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            os.read(go, 1)
            verifier.verify(issuer.mint())  # starts the child's thread
            recorder.wait_for(EventName.REVOCATION_APPLIED)
            verifier.verify(raw)
        except InvalidToken as error:
            code = 0 if error.code == "revoked" else 2
        finally:
            os._exit(code)
    issuer.revoke(rid="session-1")
    os.write(gone, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(go)
    os.close(gone)


async def test_one_verifier_serves_several_event_loops(issuer, follow):
    """Loops in threads of their own, all with one verifier."""
    verifier = follow(issuer)
    raws = [issuer.mint() for _ in range(8)]

    def verify(raw: str):
        return asyncio.run(verifier.averify(raw))

    tokens = await asyncio.gather(*(asyncio.to_thread(verify, raw) for raw in raws))
    assert len({token.jti for token in tokens}) == 8
    assert issuer.requests("jwks") == 1


# --- events ------------------------------------------------------------------------------------


def test_events_and_logs_never_hold_a_token(issuer, follow, recorder, caplog):
    """VF11: neither the raw token nor its parts come out anywhere; a hostile kid is cut and escaped."""
    caplog.set_level("DEBUG", logger="mintmark.verifier")
    verifier = follow(issuer)
    raw = issuer.mint()
    verifier.verify(raw)
    forged = raw[:-8] + "AAAAAAAA"
    hostile = issuer.mint(header={"kid": "line\\nbreak" + "k" * 100})
    for bad in (forged, hostile, "x.y.z"):
        with pytest.raises(InvalidToken):
            verifier.verify(bad)
    recorder.wait_for(EventName.INCIDENT, code="bad_signature_known_kid")
    recorder.wait_for(EventName.TOKEN_REJECTED, 3)
    told = caplog.text + "".join(str(event) for event in recorder.events)
    for part in (*raw.split("."), *forged.split("."), *hostile.split(".")[1:]):
        assert part not in told


def test_an_incident_is_told_once_a_minute_with_its_number(issuer, follow, recorder, clock):
    """A flood of forged tokens makes one line a minute."""
    verifier = follow(issuer)
    verifier.verify(issuer.mint())
    forged = issuer.mint()[:-8] + "AAAAAAAA"
    for _ in range(50):
        with pytest.raises(InvalidToken):
            verifier.verify(forged)
    recorder.wait_for(EventName.INCIDENT, code="bad_signature_known_kid")
    clock.advance(60)
    with pytest.raises(InvalidToken):
        verifier.verify(forged)
    recorder.wait_for(EventName.INCIDENT, 2, code="bad_signature_known_kid")
    [last] = [e for e in recorder.events if e.name is EventName.INCIDENT][1:]
    assert last.fields["count"] == 50


def test_a_listener_that_fails_changes_no_answer(issuer, clock):
    """Its error is logged and goes no further."""

    def listener(event):
        raise RuntimeError("listener")

    with Verifier(issuer.issuer, audience="api", clock=clock, on_event=listener) as verifier:
        assert verifier.verify(issuer.mint()).sub == "usr_1"


def test_a_listener_may_ask_the_verifier(issuer, clock):
    """No lock is held while it runs."""
    answers: list[bool] = []

    def listener(event):
        answers.append(verifier.ready())

    verifier = Verifier(issuer.issuer, audience="api", clock=clock, on_event=listener)
    with verifier:
        assert verifier.verify(issuer.mint()).sub == "usr_1"
    assert True in answers


def test_without_a_clock_real_time_counts():
    """The default works out of the box, with the issuer's default too."""
    with FakeIssuer() as issuer, Verifier(issuer.issuer, audience="api") as verifier:
        assert verifier.verify(issuer.mint()).revocation == "checked"
