"""Log in, refresh, log out: the use cases of refresh sessions (design rules R1 to R7)."""

import contextlib
from dataclasses import dataclass, replace
from typing import Final

from mintmark.core import directory, sealing, sessions
from mintmark.core.directory import Client, User
from mintmark.core.events import EventName
from mintmark.core.minting import TokenRequest
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.core.sessions import EndCause, FromTheFuture, Redeem, Refusal, Session, SessionStart, Stolen
from mintmark.core.timing import Timing
from mintmark.errors import (
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    StoreDamaged,
    StoreUnavailable,
    UnauthorizedClient,
    Unavailable,
)
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Entropy
from mintmark.ports.passwords import PasswordCheck, PasswordHasher
from mintmark.ports.store import Store
from mintmark.server.audit import Audit
from mintmark.server.issuing import AccessTokenIssued, Issuing, Planned
from mintmark.server.windows import Windows
from mintmark.units import Issuer, NumericDate, Rid, Seconds, Sub

_ATTEMPTS: Final = 16
"""How often a redemption is decided again after it lost; each loss means that another one won."""

_REFUSED: Final = "the refresh token is unknown, expired, spent or revoked"


@dataclass(frozen=True, slots=True, repr=False)
class SessionTokens:
    """What a login or a refresh answers."""

    access: AccessTokenIssued
    refresh_token: str
    rid: Rid
    lasts: Seconds
    """How long the refresh token can be used, and the session lives, if nobody does anything."""


class Sessions:
    """Every operation on refresh sessions, for one issuer."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        store: Store,
        bus: Bus,
        issuing: Issuing,
        passwords: PasswordHasher,
        entropy: Entropy,
        timing: Timing,
        audit: Audit,
        pepper: Pepper = UNPEPPERED,
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._bus = bus
        self._issuing = issuing
        self._passwords = passwords
        self._entropy = entropy
        self._timing = timing
        self._audit = audit
        self._pepper = pepper
        self._windows = Windows()

    async def log_in(
        self,
        client: Client,
        *,
        username: str,
        password: str,
        scope: tuple[str, ...] | None = None,
        audience: tuple[str, ...] | None = None,
        device: str = "",
        address: str = "",
    ) -> SessionTokens:
        """A new session for who knows the password, with the caller's ``device`` and ``address`` in its row.

        Raises InvalidCredentials for an unknown name, a wrong password, a disabled and a locked user alike;
        UnauthorizedClient, InvalidScope, InvalidTarget for what the client may not; Overloaded.
        """
        if not client.first_party:
            raise UnauthorizedClient("this client may not send passwords")
        audiences = directory.narrow_audience(audience, client.audiences, own=self._issuer)
        # Before a password is hashed for a token that could not be minted yet.
        self._issuing.check_not_before(client.not_before)
        user = await self._store.directory.user_named(self._issuer, directory.name_sought(username))
        usable = directory.is_hashable(password)
        check = await self._passwords.verify(
            user.password_hash if user is not None and usable else None, password if usable else ""
        )
        now = await self._store.now()
        # Asked only after the hash was compared and the time was read, so that each refusal takes as long.
        if user is None or check is PasswordCheck.WRONG or directory.is_barred(user, now):
            raise self._failed(client, user.sub if user else None)
        if check is PasswordCheck.RIGHT_BUT_WEAKLY_HASHED:
            user = await self._renew_hash(client, user, password)
        granted = directory.narrow_scope(scope, client.scopes, user.scopes)
        begin = SessionStart(
            issuer=self._issuer,
            sub=user.sub,
            client_id=client.client_id,
            scope=granted,
            audience=audiences,
            device=device,
            address=address,
        )
        session, token = sessions.start(
            begin,
            rid=self._entropy.token_bytes(16),
            seed=self._entropy.token_bytes(32),
            timing=self._timing,
            now=now,
            pepper=self._pepper,
        )
        planned = self._issuing.plan(
            _request(session, granted, audiences),
            not_after=session.expires_at,
            not_before=client.not_before,
        )
        session = sessions.covering(session, exp=planned.minting.exp, kid=planned.kid)
        # Signed before the session is there, so that a signer that is away leaves no session that nobody
        # has; until the store has taken it, the token goes nowhere. Another node signs nothing for a session
        # that it does not find, so what only another one can sign comes after.
        issued = await self._issuing.sign_here(planned, granted)
        if not await self._store.sessions.start(session, user=user):
            # Whoever was right must not hear that he was wrong because all was revoked meanwhile.
            current = await self._store.directory.client(self._issuer, client.client_id)
            if current is not None:
                self._issuing.check_not_before(current.not_before)
            # Disabled, or given another password, while the old one was being compared.
            raise self._failed(client, user.sub)
        if issued is None:
            issued = await self._sign_started(session, planned, granted)
        self._audit.record(
            EventName.SESSION_STARTED,
            rid=session.rid,
            sub=user.sub,
            client_id=client.client_id,
            kid=planned.kid,
        )
        return SessionTokens(issued, token.text(), session.rid, sessions.lasts(session, now))

    async def _sign_started(
        self, session: Session, planned: Planned, granted: tuple[str, ...]
    ) -> AccessTokenIssued:
        """The token of a session that is stored already, and is ended again where nobody signs."""
        try:
            return await self._issuing.sign(planned, granted)
        except Unavailable:
            # Nobody holds its refresh token; if the store is away too, it ends by itself.
            with contextlib.suppress(Unavailable):
                await self._store.sessions.end(
                    self._issuer, session.rid, cause=EndCause.UNSIGNED, timing=self._timing
                )
            raise

    async def _renew_hash(self, client: Client, user: User, password: str) -> User:
        """``user`` with the hash that is stored now, which ``password`` was proved against.

        Raises InvalidCredentials where the password was changed meanwhile: reading the user again alone
        would let the old one in under the new one's hash.
        """
        hashed = await self._passwords.hash(password)
        if await self._store.directory.rehash_password(user, hashed):
            return replace(user, password_hash=hashed)
        found = await self._store.directory.user(self._issuer, user.sub)
        if (
            found is None
            or await self._passwords.verify(found.password_hash, password) is PasswordCheck.WRONG
        ):
            raise self._failed(client, user.sub)
        return found

    async def refresh(
        self,
        client: Client,
        refresh_token: str,
        *,
        scope: tuple[str, ...] | None = None,
        audience: tuple[str, ...] | None = None,
        device: str = "",
        address: str = "",
    ) -> SessionTokens:
        """New tokens of the session that ``refresh_token`` belongs to, for a caller at ``address``.

        Raises InvalidGrant for whatever is no live token of this client (a spent one ends the session,
        once); InvalidScope and InvalidTarget for more than the session has; Unavailable for what is ours.
        """
        token = sessions.parse(refresh_token)
        if token is None:
            raise self._refused(client, None, "malformed")
        for _ in range(_ATTEMPTS):
            before = self._issuing.moment()
            view = await self._store.sessions.read(self._issuer, token.rid)
            self._issuing.check_time(before, view.now)
            verdict = self._decide(view.session, token, client, view.now)
            match verdict:
                case Redeem():
                    verdict = sessions.seen(verdict, device=device, address=address)
                    issued = await self._redeem(
                        client, verdict, scope, audience, user=view.user, now=view.now
                    )
                    if issued is not None:
                        if self._windows.is_shared(token.rid, verdict.token.generation, address):
                            self._audit.record(EventName.ADDRESSES_DIFFERED, rid=token.rid)
                        return issued
                case Stolen(rid):
                    await self._end(rid, EndCause.THEFT)
                    raise self._refused(client, rid, "stolen")
                case FromTheFuture(rid):
                    self._audit.record(EventName.STORE_WENT_BACK, rid=rid, client_id=client.client_id)
                    raise self._refused(client, rid, "from_the_future")
                case Refusal():
                    raise self._refused(client, token.rid, verdict.value)
        raise StoreUnavailable("the session changed at each of many attempts")

    async def find(self, refresh_token: str) -> Session | None:
        """The session that gave ``refresh_token``, whether it is over or not; None where none did."""
        token = sessions.parse(refresh_token)
        if token is None:
            return None
        found = (await self._store.sessions.read(self._issuer, token.rid)).session
        return found if found is not None and sessions.is_genuine(found, token) else None

    async def held_by(self, refresh_token: str) -> Session | None:
        """The live session that ``refresh_token`` would refresh now; None for a spent or any other token.

        Nothing is redeemed, so the token stays what it is, and asking again is no evidence of theft.
        """
        token = sessions.parse(refresh_token)
        if token is None:
            return None
        before = self._issuing.moment()
        view = await self._store.sessions.read(self._issuer, token.rid)
        self._issuing.check_time(before, view.now)
        found = view.session
        client = None if found is None else await self._store.directory.client(self._issuer, found.client_id)
        if client is None:
            return None
        verdict = self._decide(found, token, client, view.now)
        return verdict.before if isinstance(verdict, Redeem) else None

    async def log_out(self, refresh_token: str, cause: EndCause = EndCause.LOGOUT) -> bool:
        """Whether this call ended the session of ``refresh_token``, of whatever generation it is.

        Raises InvalidToken for one that is not genuine: who holds none cannot end a session by its ``rid``.
        """
        token = sessions.parse(refresh_token)
        if token is not None:
            view = await self._store.sessions.read(self._issuer, token.rid)
            if view.session is not None and sessions.is_genuine(view.session, token):
                return await self._end(token.rid, cause)
        raise InvalidToken("not_genuine", "the refresh token is none of ours")

    async def end(self, rid: Rid, cause: EndCause) -> bool:
        """Whether this call ended the session; the caller has proved that he may."""
        return await self._end(rid, cause)

    async def end_all(self, sub: Sub, cause: EndCause) -> int:
        """How many sessions of a user this call ended: all that lived."""
        before = self._issuing.moment()
        self._issuing.check_time(before, await self._store.now())
        ended = await self._store.sessions.end_all(self._issuer, sub, cause=cause, timing=self._timing)
        if ended:
            await self._bus.announce()
        for rid in ended:
            self._audit.record(EventName.SESSION_ENDED, rid=rid, cause=cause.value)
        return len(ended)

    def _decide(
        self, session: Session | None, token: sessions.RefreshToken, client: Client, now: NumericDate
    ) -> sessions.Verdict:
        try:
            return sessions.decide(
                session,
                token,
                client.client_id,
                timing=self._timing,
                now=now,
                # Without a secret beside it, one that stays the same is a thief's for as long as it lives.
                rotates=client.rotates_refresh or client.secret_hash is None,
                pepper=self._pepper,
            )
        except sealing.SealBroken:
            raise StoreDamaged("a session's row does not fit its own token") from None

    async def _redeem(
        self,
        client: Client,
        verdict: Redeem,
        scope: tuple[str, ...] | None,
        audience: tuple[str, ...] | None,
        *,
        user: User | None,
        now: NumericDate,
    ) -> SessionTokens | None:
        """The answer to a redemption, or None where another one won and it must be decided again."""
        session = verdict.before
        if user is None or user.disabled_at is not None:
            raise self._refused(client, session.rid, "user_disabled")
        if directory.is_barred(user, now):
            # Nothing was changed: whoever keeps the token goes on with it once the lock is over.
            raise self._refused(client, session.rid, "user_locked")
        # What the client and the user may do now bounds what they could when the session began (R6).
        still = tuple(s for s in session.scope if s in client.scopes and s in user.scopes)
        granted = directory.narrow_scope(scope, still)
        own = self._issuer if client.first_party else None
        audiences = tuple(a for a in session.audience if a in client.audiences or a == own)
        if not audiences:
            raise self._refused(client, session.rid, "audience_removed")
        # The issuer's own is no growth (R6): whoever can refresh can end the session as it is.
        chosen = directory.narrow_audience(audience, audiences, own=own) if audience else audiences
        planned = self._issuing.plan(
            _request(session, granted, chosen), not_after=session.expires_at, not_before=client.not_before
        )
        change = sessions.with_access_token(verdict, exp=planned.minting.exp, kid=planned.kid)
        if not await self._store.sessions.redeem(change):
            return None
        self._audit.record(
            EventName.SESSION_REFRESHED,
            rid=session.rid,
            sub=session.sub,
            client_id=client.client_id,
            kid=planned.kid,
        )
        issued = await self._issuing.sign(planned, granted)
        return SessionTokens(issued, change.token.text(), session.rid, sessions.lasts(change.after, now))

    async def _end(self, rid: Rid, cause: EndCause) -> bool:
        before = self._issuing.moment()
        # By a store's clock that is ahead no token is left to deny, and no event would say that it ended.
        self._issuing.check_time(before, await self._store.now())
        ended = await self._store.sessions.end(self._issuer, rid, cause=cause, timing=self._timing)
        if ended:
            await self._bus.announce()
            self._audit.record(EventName.SESSION_ENDED, rid=rid, cause=cause.value)
            if cause is EndCause.THEFT:
                self._audit.record(EventName.SESSION_STOLEN, rid=rid)
        return ended

    def _failed(self, client: Client, sub: Sub | None) -> InvalidCredentials:
        self._audit.record(EventName.LOGIN_FAILED, client_id=client.client_id, sub=sub)
        return InvalidCredentials("user name or password is wrong")

    def _refused(self, client: Client, rid: Rid | None, reason: str) -> InvalidGrant:
        self._audit.record(EventName.REFRESH_REFUSED, rid=rid, client_id=client.client_id, reason=reason)
        return InvalidGrant(_REFUSED)


def _request(session: Session, scope: tuple[str, ...], audience: tuple[str, ...]) -> TokenRequest:
    return TokenRequest(
        iss=session.issuer,
        sub=session.sub,
        client_id=session.client_id,
        aud=audience,
        scope=scope,
        rid=session.rid,
        auth_time=session.auth_time,
        amr=session.amr,
    )
