"""The revocation log and what is revoked through it alone, in SQL."""

from collections.abc import Callable

from sqlalchemy import Connection

from mintmark.adapters.sql.database import Collision, Database, T, is_storable
from mintmark.adapters.sql.ending import Ending, EndingRows, RevokedStep
from mintmark.adapters.sql.log import NEVER, ByTime, LogRows
from mintmark.adapters.sql.tokens import TokenRows
from mintmark.core.log import Admission, Cursor, LogPage
from mintmark.core.sessions import EndCause
from mintmark.core.timing import Timing
from mintmark.errors import StoreDamaged
from mintmark.ports.revocations import CursorGone, IssuedToken
from mintmark.units import ClientId, Issuer, Jti, NumericDate


class SqlRevocations:
    """:class:`mintmark.ports.revocations.RevocationLog` in SQL."""

    def __init__(self, database: Database, rows: LogRows, tokens: TokenRows, endings: EndingRows) -> None:
        self._database = database
        self._rows = rows
        self._tokens = tokens
        self._endings = endings
        self._swept: dict[Issuer, tuple[NumericDate, NumericDate]] = {}

    async def read(self, issuer: Issuer, after: Cursor | None, *, limit: int) -> LogPage | CursorGone:
        """Up to ``limit`` unexpired entries behind ``after``, or from the first where it is None."""
        if limit < 1:
            raise ValueError("a page has room for at least one entry")
        return await self._begun(issuer, lambda c: self._rows.page(c, issuer, after, limit), single=False)

    async def head(self, issuer: Issuer) -> tuple[Cursor, NumericDate]:
        """The cursor behind the newest entry, and the store's time at which it was read."""
        return await self._begun(issuer, lambda c: self._rows.head(c, issuer), single=True)

    async def _begun(self, issuer: Issuer, look: Callable[[Connection], T | None], *, single: bool) -> T:
        """What ``look`` finds in the log, which is begun where it never was."""
        found = await self._database.read(look, single=single)
        if found is None:
            await self._database.write(lambda c: self._rows.begin(c, issuer), single=True)
            found = await self._database.read(look, single=single)
        if found is None:
            raise StoreDamaged("the log has lost its head row")
        return found

    async def prune(self, issuer: Issuer) -> int:
        """Remove what has expired; how many entries went."""
        total = 0
        while removed := await self._database.write(lambda c: self._rows.prune(c, issuer), single=True):
            total += removed
        while await self._database.write(lambda c: self._tokens.prune(c, issuer), single=True):
            pass
        return total

    async def revoke_token(
        self, issuer: Issuer, token: IssuedToken, *, cause: str, timing: Timing
    ) -> Admission:
        """What revoking ``token`` came to; NOTHING too where it had been revoked before."""
        admission = await self._admit(issuer, token, cause, timing)
        if admission is Admission.END_SESSION and token.rid is not None:
            rid, ending = token.rid, Ending("rid", EndCause.REVOKED, timing)
            await self._database.write(
                lambda c: self._endings.end(c, issuer, rid, ending), single=self._endings.ends_at_once
            )
        return admission

    async def _admit(self, issuer: Issuer, token: IssuedToken, cause: str, timing: Timing) -> Admission:
        try:
            return await self._database.write(
                lambda c: self._tokens.revoke(c, issuer, token, cause, timing),
                single=self._tokens.appends_at_once,
            )
        except Collision:
            return Admission.NOTHING  # somebody else revoked it in the same moment

    async def is_revoked(self, issuer: Issuer, jti: Jti) -> bool:
        """Whether that one token was revoked."""
        if not is_storable(jti):
            return False
        return await self._database.read(lambda c: self._tokens.is_revoked(c, issuer, jti), single=True)

    async def revoke_client(
        self,
        issuer: Issuer,
        client_id: ClientId,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
    ) -> NumericDate:
        """Deny every token of a client that was issued until now, or until ``before``."""
        asked = ByTime(client_id=client_id, cause=cause, timing=timing, before=before)
        return await self._revoke(issuer, asked)

    async def revoke_all(
        self,
        issuer: Issuer,
        *,
        cause: str,
        timing: Timing,
        before: NumericDate | None = None,
        sessions: bool = False,
    ) -> NumericDate:
        """The same for every token of the issuer, and with ``sessions`` for its sessions."""
        asked = ByTime(client_id=None, cause=cause, timing=timing, before=before, sessions=sessions)
        return await self._revoke(issuer, asked)

    async def _revoke(self, issuer: Issuer, asked: ByTime) -> NumericDate:
        return await self._database.write(
            lambda c: self._rows.revoke(c, issuer, asked), single=self._rows.appends_at_once
        )

    async def end_revoked(self, issuer: Issuer, *, timing: Timing) -> int:
        """Write into some rows that ``revoke_all`` ended their sessions; how many.

        What it has looked at it does not look at again while the floor stays: no index says which rows
        ended, and nothing begins below the floor.
        """
        denied, floor = await self._database.read(lambda c: self._endings.floors(c, issuer), single=True)
        swept = self._swept.get(issuer)
        behind = swept[1] if swept is not None and swept[0] == floor else NEVER
        ended = 0
        while behind < floor and not ended:
            after = behind
            upto = await self._database.read(
                lambda c: self._endings.next_revoked(c, issuer, after, floor),  # noqa: B023
                single=True,
            )
            step = RevokedStep(behind, upto, floor, denied, timing)
            ended = await self._database.write(
                lambda c: self._endings.end_revoked(c, issuer, step),  # noqa: B023
                single=self._endings.ends_at_once,
            )
            behind = upto
            self._swept[issuer] = floor, behind
        return ended
