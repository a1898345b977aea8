"""``mintmark token``: look at a token without believing it."""

import json
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given
from mintmark.cli.output import distance, instant
from mintmark.cli.status import Failed, Misused, printable
from mintmark.cli.stdin import is_person, read_bytes
from mintmark.core import jws, sessions, strict_json
from mintmark.core.verification import KeyAbsent, Policy, Trust, Trusted, verify
from mintmark.errors import InvalidToken
from mintmark.server.accounts import SECRET_PREFIX
from mintmark.units import Issuer, NumericDate

app = App(name="token", help="Look at tokens.")

_TIMES: Final = frozenset({"exp", "iat", "nbf", "auth_time"})
_STDIN: Final = "-"
_NOBODY: Final = "-"
_WARNING: Final = "NOT VERIFIED: anybody can write such a token. This is what it says, not what is true."
_JWE_DOTS: Final = 4


@app.command
def inspect(
    token: Annotated[
        str,
        Parameter(
            help="The token; `-`, and nothing at all, reads it from standard input, where no list of "
            "processes shows it."
        ),
    ] = _STDIN,
    /,
    *,
    given: Given,
) -> None:
    """Show what a token says, without verifying it.

    Nothing is fetched and no signature is checked. It says what any verifier of the token's own issuer and
    audience would refuse it for at first sight: its form, its header, the types of its claims, its times.
    """
    raw = _raw(token)
    try:
        header, claims, signature = _parts(raw)
    except InvalidToken as error:
        raise Failed(f"this is no JWT in compact form: {error}") from None
    given.output.heading(_WARNING)
    now = given.clock.now()
    refusal = _refusal(raw, claims, now)
    document = {
        "verified": False,
        "header": header,
        "claims": claims,
        "signature_bytes": len(signature),
        "refused": None if refusal is None else {"code": refusal.code, "reason": str(refusal)},
    }
    verdict = (
        "A verifier would go on to the signature, the key, its own audience and revocations."
        if refusal is None
        else f"A verifier would refuse it: {refusal.code} ({refusal})."
    )
    given.output.answer(
        document,
        "Header",
        *_members(header, now, frozenset()),
        "Claims",
        *_members(claims, now, _TIMES),
        f"Signature: {len(signature)} bytes, not checked.",
        verdict,
    )


def _raw(token: str) -> str:
    if token == _STDIN:
        if is_person():
            raise Misused("give a token, or pipe one into standard input")
        # More than any token, so that what is too long is seen to be.
        token = read_bytes(4 * jws.MAX_SIZE).decode("utf-8", "replace")
    raw = token.strip().removeprefix("Bearer ").strip()
    if raw.startswith(sessions.PREFIX):
        raise Failed("this is a refresh token: it says nothing but to its issuer, and is a secret")
    if raw.startswith(SECRET_PREFIX):
        raise Failed("this is a client secret, not a token")
    if raw.count(".") == _JWE_DOTS:
        raise Failed("this has five parts: an encrypted token (JWE), which only its receiver can read")
    return raw


def _parts(raw: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims and signature. The header may ask for anything: showing it is what this is for."""
    _, header, payload, signature = jws.split(raw)
    return (
        _object("header", jws.decode(header)),
        _object("payload", jws.decode(payload)),
        jws.decode(signature),
    )


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = strict_json.decode(data)
    except strict_json.NotStrictJson as error:
        raise Failed(f"the {name} is not JSON that every reader reads alike: {error}") from None
    if not isinstance(value, dict):
        raise Failed(f"the {name} is no JSON object")
    return value


def _refusal(raw: str, claims: dict[str, Any], now: NumericDate) -> InvalidToken | None:
    """What the first failing check says that needs no key, for the issuer and audience that it names."""
    issuer, audience = claims.get("iss"), claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    policy = Policy(
        issuer=Issuer(issuer if isinstance(issuer, str) and issuer else _NOBODY),
        audiences=frozenset(name for name in named if isinstance(name, str) and name) or frozenset({_NOBODY}),
    )
    try:
        verify(raw, Trusted([Trust(policy=policy, keys={})]), now)
    except InvalidToken as error:
        return error
    except KeyAbsent:
        # Every check that needs no key has passed.
        return None
    return None


def _members(members: dict[str, Any], now: NumericDate, times: frozenset[str]) -> list[str]:
    width = min(max((len(printable(name)) for name in members), default=0), 24)
    return [
        f"  {printable(name):<{width}}  {_value(value, now, is_time=name in times)}"
        for name, value in members.items()
    ]


def _value(value: object, now: NumericDate, *, is_time: bool) -> str:
    match value:
        case str():
            return printable(value)
        # bool is an int to Python, and no time to anybody.
        case int() if is_time and not isinstance(value, bool):
            return f"{value}  {instant(value)} ({distance(value, now)})"
        case _:
            return json.dumps(value)
