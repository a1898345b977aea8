"""A client gives a token back: what was its own works no more, what was not stays as it is (RFC 7009)."""

from typing import Final

from mintmark.core.directory import Client
from mintmark.core.events import EventName
from mintmark.core.log import Admission
from mintmark.core.sessions import PREFIX, EndCause
from mintmark.core.timing import Timing
from mintmark.errors import InvalidGrant, InvalidToken, TooManyRequests
from mintmark.ports.bus import Bus
from mintmark.ports.revocations import IssuedToken
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.bearer import BearerTokens
from mintmark.server.clients import Clients, Credentials
from mintmark.server.issuing import Issuing
from mintmark.server.sessions import Sessions
from mintmark.units import Issuer, Seconds

_OTHERS: Final = "the token was issued to another client"
_PAUSE: Final = Seconds(60)
"""What a client with too many revoked tokens is told to wait: some of them will have expired by then, or it
finds out that ending sessions is what it wants."""


class Revoking:
    """Revokes the tokens of one issuer's clients for them."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        clients: Clients,
        sessions: Sessions,
        bearers: BearerTokens,
        issuing: Issuing,
        store: Store,
        bus: Bus,
        timing: Timing,
        audit: Audit,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._sessions = sessions
        self._bearers = bearers
        self._issuing = issuing
        self._store = store
        self._bus = bus
        self._timing = timing
        self._audit = audit

    async def revoke(self, credentials: Credentials | None, token: str) -> None:
        """Have ``token`` work no more, if it is one of the client's; returning says that it does not.

        A refresh token of any generation ends its session; an access token is denied by itself, or with its
        session where too many of that were. What is no token of this issuer, or has expired, is no error,
        and changes nothing (s.2.2). Raises InvalidClient; InvalidGrant for a token of another client (s.2.1);
        TooManyRequests; Unavailable where it may still work.
        """
        client = await self._clients.authenticate(credentials)
        # Nothing is asked of `token_type_hint`: a token shows what it is.
        if token.startswith(PREFIX):
            await self._revoke_refresh_token(client, token)
        else:
            await self._revoke_access_token(client, token)

    async def _revoke_refresh_token(self, client: Client, text: str) -> None:
        session = await self._sessions.find(text)
        if session is None:
            return
        # Whether the session lives or has ended: another client learns nothing of it.
        if session.client_id != client.client_id:
            raise InvalidGrant(_OTHERS)
        await self._sessions.end(session.rid, EndCause.REVOKED)

    async def _revoke_access_token(self, client: Client, raw: str) -> None:
        before = self._issuing.moment()
        try:
            token = await self._bearers.read(raw)
        except InvalidToken:
            return
        if token.client_id != client.client_id:
            raise InvalidGrant(_OTHERS)
        # By a store's clock that is ahead it would have expired, and stay good at every verifier.
        self._issuing.check_time(before, await self._store.now())
        issued = IssuedToken(jti=token.jti, client_id=token.client_id, rid=token.rid, exp=token.exp)
        admission = await self._store.revocations.revoke_token(
            self._issuer, issued, cause=EndCause.REVOKED.value, timing=self._timing
        )
        match admission:
            case Admission.NOTHING:
                return
            case Admission.APPEND:
                self._audit.record(
                    EventName.TOKEN_REVOKED, jti=token.jti, rid=token.rid, client_id=token.client_id
                )
            case Admission.END_SESSION:
                self._audit.record(EventName.SESSION_ENDED, rid=token.rid, cause=EndCause.REVOKED.value)
            case Admission.REFUSE:
                raise TooManyRequests(
                    "too many single tokens are revoked; revoke the refresh tokens of their sessions",
                    retry_after=_PAUSE,
                )
        await self._bus.announce()
