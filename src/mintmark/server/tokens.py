"""Token requests: what all grants and the log-in share, done once for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mintmark.core import directory
from mintmark.core.directory import Client
from mintmark.core.minting import TokenRequest
from mintmark.errors import (
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from mintmark.grants import GRANTS
from mintmark.grants.grant import Granted
from mintmark.server.clients import Clients, Credentials
from mintmark.server.issuing import Issuing
from mintmark.server.sessions import Sessions, SessionTokens
from mintmark.units import Sub

GRANT_TYPE: Final = "grant_type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request asks for; None asks for what the client gets by default."""

    scope: tuple[str, ...] | None = None
    audience: tuple[str, ...] | None = None


def wish(scope: str | None, audience: tuple[str, ...]) -> Wish:
    """The wish that a ``scope`` parameter and the audiences of a request make.

    Raises InvalidScope for a scope that lists nothing, or what no scope can be (RFC 6749 s.3.3).
    """
    scopes = None if scope is None else directory.parse_scope(scope)
    if scopes == ():
        raise InvalidScope("scope: lists no scope")
    return Wish(scope=scopes, audience=audience or None)


class Tokens:
    """Answers token requests of one issuer."""

    def __init__(self, *, clients: Clients, sessions: Sessions, issuing: Issuing) -> None:
        self._clients = clients
        self._sessions = sessions
        self._issuing = issuing

    async def grant(
        self,
        credentials: Credentials | None,
        parameters: Mapping[str, str],
        *,
        audience: tuple[str, ...] = (),
        device: str = "",
        address: str = "",
    ) -> Granted:
        """The answer to a token request; ``parameters`` are those of the form, none of them empty.

        Raises InvalidClient, InvalidRequest, UnsupportedGrantType, UnauthorizedClient, InvalidScope,
        InvalidTarget, InvalidGrant; Unavailable for what is ours.
        """
        # Whoever cannot say who he is learns nothing of what exists here.
        client = await self._authenticate(credentials)
        if GRANT_TYPE not in parameters:
            raise InvalidRequest("grant_type: missing")
        grant = GRANTS.get(parameters[GRANT_TYPE])
        if grant is None:
            raise UnsupportedGrantType("grant_type: there is no such grant here")
        if grant.grant_type not in client.grant_types:
            raise UnauthorizedClient("this client is not registered for the grant")
        if grant.confidential_only and client.secret_hash is None:
            raise UnauthorizedClient("this grant needs a client with a secret")
        for name in grant.parameters:
            if name not in parameters:
                raise InvalidRequest(f"{name}: missing")
        wanted = wish(parameters.get("scope"), audience)
        issuance = _Issuance(client, wanted, self._sessions, self._issuing, device, address)
        return await grant.perform(issuance, {name: parameters[name] for name in grant.parameters})

    async def log_in(
        self,
        credentials: Credentials | None,
        *,
        username: str,
        password: str,
        asked: Wish,
        device: str = "",
        address: str = "",
    ) -> Granted:
        """A new session for who knows the password, through a client that may ask for one.

        Raises as :meth:`grant` does, and InvalidCredentials.
        """
        client = await self._authenticate(credentials)
        return _granted(
            await self._sessions.log_in(
                client,
                username=username,
                password=password,
                scope=asked.scope,
                audience=asked.audience,
                device=device,
                address=address,
            )
        )

    async def _authenticate(self, credentials: Credentials | None) -> Client:
        client = await self._clients.authenticate(credentials)
        if not client.audiences:
            raise InvalidTarget("audience: this client is registered for none")
        return client


@dataclass(frozen=True, slots=True)
class _Issuance:
    """:class:`mintmark.grants.grant.Issuance` of one request."""

    client: Client
    wish: Wish
    sessions: Sessions
    issuing: Issuing
    device: str
    address: str

    async def mint(self, sub: Sub) -> Granted:
        scope = directory.narrow_scope(self.wish.scope, self.client.scopes)
        request = TokenRequest(
            iss=self.client.issuer,
            sub=sub,
            client_id=self.client.client_id,
            aud=directory.narrow_audience(self.wish.audience, self.client.audiences),
            scope=scope,
        )
        issued = await self.issuing.sign(self.issuing.plan(request, not_before=self.client.not_before), scope)
        return Granted(issued.access_token, issued.expires_in, issued.scope)

    async def refresh(self, refresh_token: str) -> Granted:
        return _granted(
            await self.sessions.refresh(
                self.client,
                refresh_token,
                scope=self.wish.scope,
                audience=self.wish.audience,
                device=self.device,
                address=self.address,
            )
        )


def _granted(tokens: SessionTokens) -> Granted:
    access = tokens.access
    return Granted(
        access.access_token,
        access.expires_in,
        access.scope,
        refresh_token=tokens.refresh_token,
        rid=tokens.rid,
        refresh_lasts=tokens.lasts,
    )
