"""What tests of /revoke and /introspect ask, and tokens that are not what they seem."""

import json
from typing import Any, Final

import httpx2
from tests.http.surface import SECRET, Surface

from mintmark.core import base64url, jws, keyring, strict_json
from mintmark.server import document
from mintmark.testing.clock import FakeClock
from mintmark.testing.key import SigningKey
from mintmark.units import Kid, NodeId

INACTIVE: Final = (200, b'{"active":false}')
STOCK: Final = ("stock", SECRET)
"""The confidential client that every surface has."""


async def revoke(
    node: Surface, token: str, client: str | tuple[str, str] = "spa", **fields: str
) -> httpx2.Response:
    """What /revoke answers; a client is an id alone, or an id and a secret."""
    return await _ask(node, "/revoke", token, client, fields)


async def introspect(
    node: Surface, token: str, client: str | tuple[str, str] = STOCK, **fields: str
) -> httpx2.Response:
    """What /introspect answers."""
    return await _ask(node, "/introspect", token, client, fields)


async def _ask(
    node: Surface, path: str, token: str, client: str | tuple[str, str], fields: dict[str, str]
) -> httpx2.Response:
    form = {"token": token} | fields
    if isinstance(client, str):
        return await node.http.post(path, data=form | {"client_id": client})
    return await node.http.post(path, data=form, auth=client)


async def own_token(node: Surface, client: tuple[str, str] = STOCK, **fields: str) -> str:
    """An access token that a service got in its own name."""
    answer = await node.http.post("/token", data={"grant_type": "client_credentials"} | fields, auth=client)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def outcome(answer: httpx2.Response) -> tuple[int, bytes]:
    """Status and body."""
    return answer.status_code, answer.content


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a token, unverified."""
    claims = strict_json.decode(jws.parse(token).payload)
    assert isinstance(claims, dict)
    return claims


async def events(node: Surface) -> list[tuple[str, str]]:
    """What the feed denies: kind and value of each event."""
    found: list[tuple[str, str]] = []
    after = ""
    while True:
        page = (await node.http.get(f"/revocations{after}")).json()
        found += [(event["kind"], event["value"]) for event in page["events"]]
        if page["complete"]:
            return found
        after = f"?after={page['cursor']}"


async def pass_time(node: Surface, span: int) -> None:
    """``span`` seconds later; the node has read the ring since."""
    assert isinstance(node.clock, FakeClock)
    node.clock.advance(span)
    await node.services.ring.refresh()


async def held_key(node: Surface) -> SigningKey:
    """A published key of this issuer whose private half is the test's."""
    key = SigningKey.generate("ES256")
    view = await node.store.keyring.read(node.issuer)
    ring = keyring.prepare(
        view.ring,
        kid=Kid(key.kid),
        node=NodeId("other"),
        alg="ES256",
        jwk=document.encode(key.public_jwk),
        timing=node.services.timing,
        now=view.now,
    )
    assert await node.store.keyring.swap(view.ring.generation, ring)
    return key


def forged(kind: str, good: str, key: SigningKey, stranger: SigningKey) -> str:
    """A token that says what ``good`` says and is not this issuer's access token.

    ``key`` is one of the issuer's, which a ``stranger`` does not have.
    """
    header_part, payload_part, signature = good.split(".")
    payload, header = base64url.decode(payload_part), {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}
    claims = claims_of(good)
    logout: dict[str, dict[str, str]] = {"http://schemas.openid.net/event/backchannel-logout": {}}
    match kind:
        case "another's key":
            return stranger.sign(header, claims)
        case "unknown kid":
            return stranger.sign(header | {"kid": stranger.kid}, claims)
        case "no kid":
            return key.sign({"alg": "ES256", "typ": "at+jwt"}, claims)
        case "odd kid":
            return key.sign(header | {"kid": "../../etc/passwd"}, claims)
        case "key in the header":
            return stranger.sign(header | {"jwk": stranger.public_jwk}, claims)
        case "unsigned":
            return f"{header_part}.{payload_part}."
        case "alg none":
            return f"{_encoded(header | {'alg': 'none'})}.{payload_part}."
        case "HMAC with the public key":
            return f"{_encoded(header | {'alg': 'HS256'})}.{payload_part}.{signature}"
        case "another alg":
            return f"{_encoded(header | {'alg': 'RS256'})}.{payload_part}.{signature}"
        case "another claim":
            changed = payload.replace(b'"orders', b'"0rders')
            return f"{header_part}.{base64url.encode(changed)}.{signature}"
        case "ID token":
            return key.sign(header | {"typ": "JWT"}, claims)
        case "no typ":
            return key.sign({"alg": "ES256", "kid": key.kid}, claims)
        case "logout token":
            return key.sign(header | {"typ": "logout+jwt"}, claims | {"events": logout})
        case "another issuer":
            return key.sign(header, claims | {"iss": "https://auth.example.org"})
        case "issuer with a slash":
            return key.sign(header, claims | {"iss": claims["iss"] + "/"})
        case "no jti":
            return key.sign(header, {name: value for name, value in claims.items() if name != "jti"})
        case "exp is text":
            return key.sign(header, claims | {"exp": "never"})
        case "rid is a number":
            return key.sign(header, claims | {"rid": 7})
        case "client_id is a list":
            return key.sign(header, claims | {"client_id": ["spa", "stock"]})
        case "garbage":
            return "a.b.c"
        case "long":
            return "A" * 9_000
        case "no refresh token":
            return "mmr_" + "A" * 112
        case "short refresh token":
            return "mmr_"
        case "beyond ASCII":
            return "mmr_é\x00"
    raise ValueError(kind)


FORGERIES: Final = (
    "another's key", "unknown kid", "no kid", "odd kid", "key in the header", "unsigned", "alg none",
    "HMAC with the public key", "another alg", "another claim", "ID token", "no typ", "logout token",
    "another issuer", "issuer with a slash", "no jti", "exp is text", "rid is a number",
    "client_id is a list", "garbage", "long", "no refresh token", "short refresh token", "beyond ASCII",
)  # fmt: skip


def _encoded(header: dict[str, str]) -> str:
    return base64url.encode(json.dumps(header).encode())
