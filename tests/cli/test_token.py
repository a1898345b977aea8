"""``mintmark token``."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.command_line import CommandLine

from mintmark.cli import token
from mintmark.cli.invocation import Invocation
from mintmark.cli.output import Output
from mintmark.cli.status import Failed
from mintmark.core import base64url
from mintmark.core.refusal import FACTS
from mintmark.testing.clock import FakeClock

NO_JWT = "this is no JWT in compact form"
NOW = 1_800_000_000
HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k" * 43}
CLAIMS = {
    "iss": "https://auth.example.com",
    "sub": "usr_x",
    "aud": "orders",
    "client_id": "shop",
    "exp": NOW + 900,
    "iat": NOW - 5,
    "jti": "j" * 22,
    "scope": "orders:read",
    "rid": "r" * 22,
}


def compact(header=HEADER, claims=CLAIMS, signature=b"s" * 256):
    """A token with these parts; its signature is nobody's."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims))
    return ".".join(base64url.encode(part) for part in (*parts, signature))


@pytest.fixture
def inspect(cli: CommandLine, capsys: pytest.CaptureFixture[str]):
    """What is said about a token at NOW: standard output and error."""

    def said(raw: str, *, as_json: bool = False):
        invocation = Invocation(output=Output(as_json=as_json), clock=FakeClock(NOW))
        token.inspect(raw, given=invocation)
        out, err = capsys.readouterr()
        return (json.loads(out) if as_json else out), err

    return said


def test_token_is_shown_and_loudly_not_verified(inspect):
    """Header and claims are printed with their times in words, under a line that says what it is not."""
    out, err = inspect(compact())
    assert err.startswith("NOT VERIFIED: anybody can write such a token.")
    assert f"exp        {NOW + 900}  2027-01-15 08:15:00Z (in 15m)" in out
    assert re.search(r"^  iss +https://auth\.example\.com$", out, re.MULTILINE)
    assert "Signature: 256 bytes, not checked." in out
    assert "A verifier would go on to the signature" in out


def test_program_gets_the_parts_and_is_told_too(inspect):
    """The JSON answer says ``verified: false``, holds the parts as they are, and the warning is printed."""
    document, err = inspect(compact(), as_json=True)
    assert document == {
        "verified": False,
        "header": HEADER,
        "claims": CLAIMS,
        "signature_bytes": 256,
        "refused": None,
    }
    assert "NOT VERIFIED" in err


@pytest.mark.parametrize(
    ("header", "claims", "code"),
    [
        ({"alg": "none"}, {}, "alg_not_allowed"),
        ({"alg": "HS256"}, {}, "alg_not_allowed"),
        ({"typ": "JWT"}, {}, "typ_not_allowed"),
        ({"jku": "https://evil.example"}, {}, "forbidden_header"),
        ({"crit": ["x"]}, {}, "forbidden_header"),
        ({"kid": None}, {}, "bad_kid"),
        ({}, {"exp": NOW - 31}, "expired"),
        ({}, {"nbf": NOW + 61}, "not_yet_valid"),
        ({}, {"iat": NOW + 61, "exp": NOW + 90}, "issued_in_future"),
        ({}, {"exp": NOW + 100_000}, "lifetime_too_long"),
        ({}, {"exp": "soon"}, "bad_claim"),
        ({}, {"exp": True}, "bad_claim"),
        ({}, {"exp": None}, "bad_claim"),
        ({}, {"iss": 1}, "bad_claim"),
        ({}, {"iss": ["https://auth.example.com"]}, "bad_claim"),
        ({}, {"iss": ""}, "unknown_issuer"),
        ({}, {"aud": []}, "wrong_audience"),
        ({}, {"aud": [1]}, "bad_claim"),
        ({}, {"sub": ""}, "bad_claim"),
        ({}, {"cnf": {"jkt": "x"}}, "sender_constrained"),
    ],
)
def test_what_a_verifier_would_refuse_is_said(inspect, header, claims, code):
    """The first check that fails without a key is named by the code that a verifier would give."""
    document, _ = inspect(compact(HEADER | header, CLAIMS | claims), as_json=True)
    assert document["refused"]["code"] == code
    assert code in FACTS
    assert document["claims"] == CLAIMS | claims
    out, _ = inspect(compact(HEADER | header, CLAIMS | claims))
    assert f"A verifier would refuse it: {code} (" in out


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "iat", "sub", "client_id", "jti"])
def test_missing_claim_is_said(inspect, name):
    """A claim that an access token must have is missed by name (RFC 9068 s.2.2)."""
    claims = {key: value for key, value in CLAIMS.items() if key != name}
    document, _ = inspect(compact(claims=claims), as_json=True)
    assert document["refused"]["code"] in {"missing_claim", "wrong_audience"}
    assert name in document["refused"]["reason"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("", f"{NO_JWT}: the token is not three parts with a dot between them"),
        ("abc", f"{NO_JWT}: the token is not three parts with a dot between them"),
        ("a.b", f"{NO_JWT}: the token is not three parts with a dot between them"),
        ("a.b.c.d.e", "this has five parts: an encrypted token (JWE), which only its receiver can read"),
        ("mmr_canary", "this is a refresh token: it says nothing but to its issuer, and is a secret"),
        ("mms_canary", "this is a client secret, not a token"),
        ("ä.ä.ä", f"{NO_JWT}: the token is not ASCII"),
        ("e30=.e30.e30", f"{NO_JWT}: a part of the token is not base64url in its one spelling"),
        ("x" * 9000, f"{NO_JWT}: the token is longer than 8192 characters"),
        (compact(b"[]"), "the header is no JSON object"),
        (compact(claims=b"1"), "the payload is no JSON object"),
        (compact(b"{"), "the header is not JSON that every reader reads alike: not JSON in UTF-8"),
        (
            compact(claims=b'{"a":1,"a":2}'),
            "the payload is not JSON that every reader reads alike: a member of an object comes twice",
        ),
        (
            compact(claims=b"[" * 3000),
            "the payload is not JSON that every reader reads alike: too many values",
        ),
    ],
)
def test_what_is_no_token_is_one_line(cli, raw, said):
    """Anything else is said to be what it is, in one line without any of it, and status 1."""
    for result in (cli("token", "inspect", raw), cli("token", "inspect", "--json", stdin=raw.encode())):
        assert (result.status, result.out, result.err) == (1, "", f"mintmark: {said}\n")


def test_token_is_read_from_standard_input(cli):
    """``-`` and no argument at all mean standard input; white space around it is no part of it."""
    piped = f"\n  Bearer {compact()}  \n".encode()
    for argv in (("token", "inspect", "-"), ("token", "inspect"), ("token", "inspect", "--json", "-")):
        result = cli(*argv, stdin=piped)
        assert result.status == 0
        assert "usr_x" in result.out


def test_hostile_values_do_not_reach_the_terminal(inspect):
    """Escape sequences and turned text in any name or value are spelled out (LG3)."""
    hostile = "\x1b[2J\x1b]0;owned\a\u202egpj\u009b31m\r\n"
    out, _ = inspect(compact(claims=CLAIMS | {hostile: hostile, "nested": {hostile: [hostile]}}))
    assert all(line.isprintable() for line in out.splitlines())
    assert r"\x1b[2J" in out
    document, _ = inspect(compact(claims=CLAIMS | {"sub": hostile}), as_json=True)
    assert document["claims"]["sub"] == hostile


@pytest.mark.parametrize("at", [0, -1, 2**62, -(2**62), 253_402_300_800])
def test_any_integer_is_a_time_or_shown_as_it_is(inspect, at):
    """A time that no calendar has is printed as a number."""
    out, _ = inspect(compact(claims=CLAIMS | {"exp": at, "auth_time": at}))
    assert f"exp        {at}" in out


@given(
    st.one_of(
        st.text(max_size=200),
        st.binary(max_size=200).map(base64url.encode),
        st.tuples(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50)).map(
            lambda parts: ".".join(base64url.encode(part) for part in parts)
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda below: (
                st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4)
            ),
            max_leaves=20,
        ).map(lambda value: compact(claims=value)),
    )
)
def test_no_input_makes_anything_but_an_answer_or_one_line(raw):
    """Whatever is given, it is shown or refused in one printable line."""
    lines: list[str] = []

    class Quiet(Output):
        def answer(self, document, *human):
            json.dumps(document)
            lines.extend(human)

        def heading(self, text):
            pass

    try:
        token.inspect(raw or "x", given=Invocation(output=Quiet(as_json=False), clock=FakeClock(NOW)))
    except Failed as failed:
        lines.append(str(failed))
    assert lines
