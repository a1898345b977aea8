"""Whether a token is good at this moment, for services that ask instead of verifying (RFC 7662)."""

from collections.abc import Mapping

from mintmark.core import directory
from mintmark.core.directory import Client
from mintmark.core.sessions import PREFIX
from mintmark.errors import InvalidClient, InvalidToken
from mintmark.ports.store import Store
from mintmark.server.bearer import BearerTokens, ReturnedToken
from mintmark.server.clients import Clients, Credentials
from mintmark.server.issuing import Issuing
from mintmark.server.sessions import Sessions
from mintmark.units import Issuer

Told = Mapping[str, object]
"""The members of an answer beside ``active``."""


class Introspection:
    """Answers for the tokens of one issuer, from its store and never from memory."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        clients: Clients,
        sessions: Sessions,
        bearers: BearerTokens,
        issuing: Issuing,
        store: Store,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._sessions = sessions
        self._bearers = bearers
        self._issuing = issuing
        self._store = store

    async def introspect(self, credentials: Credentials | None, token: str) -> Told | None:
        """What there is to tell of ``token``; None where it is inactive, or no business of who asks.

        An access token is told to the client that it was issued to and to those that serve one of its
        audiences; a refresh token to its client alone, as no service must take one for an access token.
        Raises InvalidClient for whoever proves no secret; Unavailable where it cannot be known: an outage is
        no answer.
        """
        client = await self._clients.authenticate(credentials)
        if client.secret_hash is None:
            # s.2.1, s.4: anybody knows the id of a public client, and could try tokens out with it.
            raise InvalidClient("introspection is for clients with a secret")
        if token.startswith(PREFIX):
            return await self._refresh_token(client, token)
        try:
            returned = await self._bearers.read(token)
        except InvalidToken:
            return None
        is_told = returned.client_id == client.client_id or not returned.audience.isdisjoint(client.serves)
        return await self._access_token(client, returned) if is_told else None

    async def _access_token(self, asking: Client, token: ReturnedToken) -> Told | None:
        """``token``, whose signature is good, if nothing has ended it."""
        before, session, user = self._issuing.moment(), None, None
        if token.rid is None:
            now = await self._store.now()
        else:
            view = await self._store.sessions.read(self._issuer, token.rid)
            session, user, now = view.session, view.user, view.now
            if session is None or session.ended_at is not None:
                return None
        # Neither clock may call expired what is not: who is told so logs somebody out.
        self._issuing.check_time(before, now)
        if now >= token.exp or (session is not None and now >= min(session.idle_until, session.expires_at)):
            return None
        owner: Client | None = asking
        if token.client_id != asking.client_id:
            owner = await self._store.directory.client(self._issuer, token.client_id)
        if owner is None or token.iat <= owner.not_before:
            return None
        if session is not None and (user is None or directory.is_barred(user, now)):
            return None
        if await self._store.revocations.is_revoked(self._issuer, token.jti):
            return None
        told = {**token.claims, "token_type": "Bearer"}
        return told if user is None else told | {"username": user.username}

    async def _refresh_token(self, client: Client, text: str) -> Told | None:
        """What presenting ``text`` now would go on with; it is not presented by this."""
        session = await self._sessions.held_by(text)
        if session is None or session.client_id != client.client_id:
            return None
        user = await self._store.directory.user(self._issuer, session.sub)
        if user is None or directory.is_barred(user, await self._store.now()):
            return None
        told: dict[str, object] = {
            "iss": session.issuer,
            "sub": session.sub,
            "aud": list(session.audience),
            "client_id": session.client_id,
            "username": user.username,
            "exp": min(session.idle_until, session.expires_at),
            "rid": session.rid,
            "auth_time": session.auth_time,
        }
        scope = [s for s in session.scope if s in client.scopes and s in user.scopes]
        return told | {"scope": " ".join(scope)} if scope else told
