"""A client library that nobody wrote for us revokes and introspects by what the metadata says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]
from tests.http.surface import SECRET, Surface, surface

METHODS = ("client_secret_basic", "client_secret_post")


@asynccontextmanager
async def library(node: Surface, client_id: str, secret: str | None, method: str) -> AsyncIterator[Any]:
    """Authlib, as the client, at this node."""
    async with AsyncOAuth2Client(
        client_id,
        secret,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        transport=httpx2.ASGITransport(app=node.app),
        base_url=node.issuer,
    ) as made:
        yield made


async def metadata(node: Surface) -> dict[str, Any]:
    found: dict[str, Any] = (await node.http.get("/.well-known/oauth-authorization-server")).json()
    return found


@pytest.mark.parametrize("method", METHODS)
async def test_authlib_introspects_and_revokes_a_services_token(method):
    """Active with its scope, revoked by the endpoint of the metadata, and inactive from then on."""
    async with surface() as node, library(node, "stock", SECRET, method) as client:
        told = await metadata(node)
        assert method in told["introspection_endpoint_auth_methods_supported"]
        assert method in told["revocation_endpoint_auth_methods_supported"]
        await client.fetch_token(told["token_endpoint"], grant_type="client_credentials", scope="stock:read")
        token = client.token["access_token"]
        for hint in ("access_token", "refresh_token"):
            found = await client.introspect_token(
                told["introspection_endpoint"], token=token, token_type_hint=hint
            )
            assert (found.json()["active"], found.json()["scope"]) == (True, "stock:read")
        revoked = await client.revoke_token(told["revocation_endpoint"], token=token)
        assert (revoked.status_code, revoked.content) == (200, b"")
        again = await client.introspect_token(told["introspection_endpoint"], token=token)
        assert again.json() == {"active": False}


async def test_authlib_ends_a_session_of_a_public_client():
    """A page that has no secret revokes the refresh token that it holds."""
    async with surface() as node, library(node, "spa", None, "none") as client:
        tokens, told = await node.log_in(), await metadata(node)
        revoked = await client.revoke_token(
            told["revocation_endpoint"], token=tokens["refresh_token"], token_type_hint="refresh_token"
        )
        assert revoked.status_code == 200
        assert (await node.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
