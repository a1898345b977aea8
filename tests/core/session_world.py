"""A small world for one refresh session: a row behind compare-and-swap, an owner with two tabs, a thief.

Answers are lost after their commit, requests wait between decision and commit, tokens are copied at any time,
the row is restored from a backup. What may happen is judged by what the world saw, not by the row.
"""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from mintmark.core.sealing import SealBroken
from mintmark.core.timing import Timing
from mintmark.units import Seconds

TIMING = Timing(
    access_ttl=Seconds(100),
    refresh_grace=Seconds(30),
    refresh_retry=Seconds(600),
    session_idle=Seconds(2_000),
    session_ttl=Seconds(3_500),
)
CLIENT = "web"
OWNER, THIEF = "owner", "thief"
SETTLED = ("issuer", "rid", "sub", "client_id", "scope", "audience", "auth_time", "amr", "expires_at")


@dataclass(slots=True)
class Request:
    """A redemption under way: decided, not committed."""

    party: str
    token: Any
    verdict: Any
    since: int
    decided: int
    rotates: bool


@dataclass(slots=True)
class Rotation:
    """The last commit that made a successor, as the parties saw it."""

    parent: int
    successor: int
    at: int
    seen: bool = False
    """Whether the successor was presented."""


@dataclass(slots=True)
class World:
    """``rules`` is the module under test: ``mintmark.core.sessions``, or one with a rule planted wrong."""

    rules: ModuleType
    now: int = 1_000
    row: Any = None
    rows: list[Any] = field(default_factory=list)
    issued: dict[int, Any] = field(default_factory=dict)
    """Every token that was ever made, by generation."""
    held: dict[str, Any] = field(default_factory=dict)
    """What each party would present next; the owner's tabs share one storage."""
    loot: list[Any] = field(default_factory=list)
    flying: list[Request] = field(default_factory=list)
    spent_at: dict[int, int] = field(default_factory=dict)
    last: Rotation | None = None
    used_at: int = 1_000
    turns: list[str] = field(default_factory=list)
    """Who redeemed outside a grace window, since the last copy, each party's turn counted once."""
    guaranteed: bool = True
    """Nobody but the owner has used the family, and the owner was never later than ``refresh_retry``."""
    rotates: bool = True
    """Whether the client's tokens rotate now; that may be switched at any time."""
    restored: bool = False
    ended: bool = False
    events: int = 0
    minted: int = 0

    def log_in(self) -> None:
        begin = self.rules.SessionStart(
            issuer="https://auth.example.com",
            sub="usr_1",
            client_id=CLIENT,
            scope=("read",),
            audience=("orders",),
        )
        self.row, token = self.rules.start(
            begin, rid=bytes(range(16)), seed=bytes(range(32)), timing=TIMING, now=self.now
        )
        self.rows.append(self.row)
        self.issued[0] = self.held[OWNER] = token

    # --- what the server does ------------------------------------------------------------------------

    def decide(self, token: Any, client: str = CLIENT) -> Any:
        try:
            return self.rules.decide(
                self.row, token, client, timing=TIMING, now=self.now, rotates=self.rotates
            )
        except SealBroken:
            assert self.issued.get(token.generation) != token, "R2: the row does not fit a genuine token"
            raise AssertionError("R3: a forged token got as far as the seal") from None

    def begin(self, party: str) -> None:
        """A request arrives and is decided; its commit comes later."""
        token = self.held.get(party)
        if token is not None:
            decided = self.decide(token)
            self.flying.append(Request(party, token, decided, self.now, self.now, self.rotates))

    def finish(self, request: Request, *, lost: bool) -> None:
        """Commit, deciding again for as long as another one was faster."""
        if request in self.flying:
            self.flying.remove(request)
        for _ in range(4):
            match request.verdict:
                case self.rules.Redeem():
                    change = self.rules.with_access_token(
                        request.verdict, exp=self.now + TIMING.access_ttl, kid="k"
                    )
                    if self._take(change):
                        self._redeemed(request, change, lost=lost)
                        return
                case self.rules.Stolen():
                    self._note_theft(request)
                    self.end()
                    return
                case _:
                    self._check_refusal(request)
                    return
            request.verdict, request.decided = self.decide(request.token), self.now
            request.rotates = self.rotates
        raise AssertionError("R1: a redemption never won though nobody else was there")

    def _take(self, change: Any) -> bool:
        """SESSION-1 to SESSION-3 and SESSION-6: the port's own promises, on one row."""
        row, after = self.row, change.after
        if self.ended or self.now >= row.expires_at or self.now >= row.idle_until:
            return False
        if change.before.version != row.version:
            return False
        if after.version == row.version:
            after = self.rules.replace(
                row,
                idle_until=max(row.idle_until, after.idle_until),
                last_exp=max(row.last_exp, after.last_exp),
            )
        self.row = after
        self.rows.append(after)
        return True

    def end(self) -> None:
        """End the session, once, whatever asks for it how often."""
        if not self.ended:
            self.ended = True
            self.events += 1
            self.row = self.rules.replace(self.row, ended_at=self.now, end_cause=self.rules.EndCause.LOGOUT)

    # --- what the world saw of it --------------------------------------------------------------------

    def in_grace(self, at: int) -> bool:
        return self.last is not None and at - self.last.at <= TIMING.refresh_grace

    def _redeemed(self, request: Request, change: Any, *, lost: bool) -> None:
        presented, answer = request.token.generation, change.token
        self._check_answer(presented, answer, request)
        self._count_turn(request, lost=lost)
        if self.last is not None and presented == self.last.successor:
            self.last.seen = True
        if answer.generation not in self.issued or answer.generation > self.newest():
            self.spent_at.setdefault(presented, request.decided)
            self.last = Rotation(presented, answer.generation, request.decided)
        self.issued[answer.generation] = answer
        self.used_at = max(self.used_at, request.decided)
        self.minted = max(self.minted, self.now + TIMING.access_ttl)
        if request.party == THIEF:
            self.guaranteed = False
        if not lost:
            self.held[request.party] = answer

    def newest(self) -> int:
        return self.last.successor if self.last is not None else 0

    def _check_answer(self, presented: int, answer: Any, request: Request) -> None:
        last, at = self.last, request.decided
        known = self.issued.get(answer.generation)
        assert known is None or known.text() == answer.text(), "R2: two texts of one generation"
        if not request.rotates and not self.restored:
            assert answer.generation == self.newest(), "R2: rotated though this client does without"
        if last is None or self.restored:
            return
        if self.in_grace(at) and presented in (last.parent, last.successor):
            same = self.issued[last.successor].text()
            assert answer.text() == same, "R2: not the same successor within the grace"
            return
        assert presented in (last.parent, last.successor), "R2: neither the newest token nor its parent"
        if presented == last.parent:
            assert not last.seen, "R2: a replacement though the successor was presented"
            late = at - self.spent_at[presented] >= TIMING.refresh_retry
            assert not late, "R2: a replacement after refresh_retry"
        if request.rotates:
            assert answer.generation > self.newest(), "R2: outside the grace the answer is a new token"

    def _count_turn(self, request: Request, *, lost: bool) -> None:
        """Within one window both may ride, and who lost an answer comes back as if it had not been."""
        if lost or not request.rotates or self.in_grace(request.decided):
            self.turns = []
        elif not self.turns or self.turns[-1] != request.party:
            self.turns.append(request.party)
        assert len(self.turns) <= 3 or self.restored, "R2: thief and owner both go on"

    def _note_theft(self, request: Request) -> None:
        if request.party == OWNER and self.guaranteed and not self.ended:
            spent = self.spent_at.get(request.token.generation, request.decided)
            assert request.decided - spent >= TIMING.refresh_retry, "R2: a lost answer logged the owner out"
            self.guaranteed = False

    def _check_refusal(self, request: Request) -> None:
        """R2 iv: no genuine token of a session that lives is merely refused."""
        excused = self.is_over() or self.restored
        assert excused, f"R2: {request.verdict} for a genuine token, and the session lives on"

    # --- attackers and faults --------------------------------------------------------------------------

    def steal(self, token: Any) -> None:
        """The thief copies a token: the one that the owner has now, or one of long ago."""
        self.loot.append(token)
        self.held[THIEF] = token
        self.turns = []

    def forge(self, generation: int, signature: bytes) -> None:
        """R3: a token with the right rid and anything else; it must change nothing."""
        token = self.rules.RefreshToken(self.row.rid, generation, signature)
        genuine = self.issued.get(generation)
        if genuine is None or genuine.signature != signature:
            verdict = self.decide(token)
            assert verdict is self.rules.Refusal.FORGED, "R3: a forged token was taken for a genuine one"

    def restore(self, row: Any) -> None:
        """The database comes back from a backup: an old row, while clients hold newer tokens."""
        self.row = row
        self.flying.clear()
        self.restored, self.guaranteed, self.ended = True, False, row.ended_at is not None
        self.last = None if row.parent is None else Rotation(row.parent, row.generation, row.rotated_at)

    def wait(self, seconds: int) -> None:
        """Time passes; a request that is under way for a whole grace is given up."""
        self.now += seconds
        limit = self.now - TIMING.refresh_grace
        self.flying = [request for request in self.flying if request.since > limit]

    # --- the promises ------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds at every moment, asked of every token that was ever made."""
        for name in SETTLED:
            same = getattr(self.row, name) == getattr(self.rows[0], name)
            assert same, f"R6: {name} changed"
        assert self.events <= 1 or self.restored, "R2: the session ended twice"
        if not self.restored:
            assert self.row.last_exp >= self.minted, "R5: the row forgot an access token"
        redeemable = set()
        for generation, token in self.issued.items():
            long_spent = self.newest() - 3 > generation > 0
            if long_spent and token is not self.held[OWNER] and generation != self.row.parent:
                continue
            verdict = self.decide(token)
            if isinstance(verdict, self.rules.Redeem):
                redeemable.add(generation)
            if generation > self.row.generation and not self.is_over():
                future = isinstance(verdict, self.rules.FromTheFuture)
                assert future, "R7: a token from the future was not known for one"
        other = self.decide(self.issued[self.newest()], "another")
        assert not isinstance(other, self.rules.Redeem), "R6: another client redeemed a token"
        assert not isinstance(other, self.rules.Stolen), "R6: another client ended the session"
        if self.is_over():
            assert not redeemable, "R5, R6: an ended or expired session redeems"
        elif not self.restored:
            self._check_line(redeemable)
            self._check_owner(redeemable)

    def _check_line(self, redeemable: set[int]) -> None:
        assert self.newest() in redeemable, "R1: the newest token does not redeem"
        if self.last is None:
            assert redeemable == {0}, "R1: more than one line lives"
            return
        assert redeemable <= {self.newest(), self.last.parent}, "R1: more than one line lives"
        if self.last.parent in redeemable and not self.in_grace(self.now):
            assert not self.last.seen, "R2: a replacement though the successor was presented"
            late = self.now - self.spent_at[self.last.parent] >= TIMING.refresh_retry
            assert not late, "R2: a replacement after refresh_retry"

    def is_over(self) -> bool:
        idle_until = self.row.idle_until if self.restored else self.used_at + TIMING.session_idle
        return self.ended or self.now >= min(idle_until, 1_000 + TIMING.session_ttl)

    def _check_owner(self, redeemable: set[int]) -> None:
        generation = self.held[OWNER].generation
        spent = self.spent_at.get(generation, self.now)
        if self.guaranteed and self.now - spent < TIMING.refresh_retry:
            assert generation in redeemable, "R2: a lost answer logged the owner out"
