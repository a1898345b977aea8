"""One refresh session over lost answers, two tabs, a thief, a restore and forgeries: R1 to R7.

Each promise has rules planted wrong that break it, and the search must find every one of them.
"""

from types import ModuleType

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.core.plant import find, planted, search
from tests.core.session_world import OWNER, THIEF, TIMING, World

from mintmark.core import sessions

GRACE, RETRY, IDLE = TIMING.refresh_grace, TIMING.refresh_retry, TIMING.session_idle

picks = st.integers(0, 30)
often = st.booleans() | st.just(False)


class Sessions(RuleBasedStateMachine):
    """An owner with two tabs and a thief, who refresh one session at any time and in any order."""

    code = sessions
    world: World

    @initialize()
    def log_in(self):
        self.world = World(self.code)
        self.world.log_in()

    # The parties.

    @rule(lost=often)
    def owner_refreshes(self, lost: bool):
        self._refresh(OWNER, lost=lost)

    @precondition(lambda self: THIEF in self.world.held)
    @rule(lost=often)
    def thief_refreshes(self, lost: bool):
        self._refresh(THIEF, lost=lost)

    @precondition(lambda self: THIEF in self.world.held)
    @rule(pick=picks)
    def thief_tries_an_old_copy(self, pick: int):
        latest = self.world.held[THIEF]
        self.world.held[THIEF] = self.world.loot[pick % len(self.world.loot)]
        self._refresh(THIEF, lost=False)
        if self.world.held[THIEF] in self.world.loot:
            self.world.held[THIEF] = latest

    @rule(party=st.sampled_from([OWNER, OWNER, THIEF]))
    def begin(self, party: str):
        self.world.begin(party)

    @precondition(lambda self: self.world.flying)
    @rule(pick=picks, lost=often)
    def finish(self, pick: int, lost: bool):
        flying = self.world.flying
        self.world.finish(flying[pick % len(flying)], lost=lost)

    @rule()
    def steal(self):
        self.world.steal(self.world.held[OWNER])

    @rule(pick=picks)
    def steal_an_old_token(self, pick: int):
        tokens = list(self.world.issued.values())
        self.world.steal(tokens[pick % len(tokens)])

    # Time, and its edges.

    @rule(
        seconds=st.sampled_from([1, GRACE - 1, GRACE, GRACE + 1, 100, RETRY - GRACE, RETRY, IDLE - 1, IDLE])
    )
    def wait(self, seconds: int):
        self.world.wait(seconds)

    @precondition(lambda self: len(self.world.rows) > 4)
    @rule(seconds=st.sampled_from([IDLE - 1, IDLE]))
    def wait_long(self, seconds: int):
        self.world.wait(seconds)

    @rule(times=st.integers(1, 3), seconds=st.sampled_from([GRACE, 100, RETRY - GRACE]), lost=often)
    def owner_comes_back_again_and_again(self, times: int, seconds: int, lost: bool):
        for _ in range(times):
            self._refresh(OWNER, lost=lost)
            self.world.wait(seconds)

    # The end, and attacks.

    @precondition(lambda self: len(self.world.rows) > 6)
    @rule()
    def log_out(self):
        self.world.end()

    @rule()
    def switch_rotation(self):
        self.world.rotates = not self.world.rotates

    @precondition(lambda self: len(self.world.rows) > 3)
    @rule(pick=picks)
    def restore(self, pick: int):
        self.world.restore(self.world.rows[pick % len(self.world.rows)])

    @rule(generation=picks, signature=st.binary(min_size=64, max_size=64))
    def forge(self, generation: int, signature: bytes):
        self.world.forge(generation, signature)

    @rule(pick=picks, generation=picks, place=st.integers(0, 63), change=st.integers(0, 255))
    def alter(self, pick: int, generation: int, place: int, change: int):
        tokens = list(self.world.issued.values())
        signature = bytearray(tokens[pick % len(tokens)].signature)
        signature[place] ^= change
        self.world.forge(generation, bytes(signature))

    @invariant()
    def promises_hold(self):
        self.world.check()

    def _refresh(self, party: str, *, lost: bool):
        self.world.begin(party)
        self.world.finish(self.world.flying[-1], lost=lost)


def machine(code: ModuleType) -> type[Sessions]:
    """The machine over another module than the one that we use."""
    return type("Sessions", (Sessions,), {"code": code})


@pytest.mark.hypothesis
@pytest.mark.timeout(3600)  # A failure takes minutes to be made small.
def test_promises_hold_over_lost_answers_tabs_thieves_and_restores():
    """R1 to R7: whoever presents whatever, whenever, no promise of the session breaks."""
    search(Sessions, steps=40, factor=5)


RETRIES = "may_be_lost = not session.presented and now < spent_at + timing.refresh_retry"
GRACES = "if within_grace or (may_be_lost and not rotates):"

PLANTED: dict[str, tuple[str, *tuple[tuple[str, str], ...]]] = {
    "there is no grace": (
        "R2: not the same successor within the grace",
        ("abs(now - session.rotated_at) <= timing.refresh_grace", "False"),
    ),
    "the newest token rotates within the grace": (
        "R2: not the same successor within the grace",
        ("if not rotates or (within_grace and session.generation != FIRST):", "if not rotates:"),
    ),
    "the parent gets another successor within the grace": (
        "R2: not the same successor within the grace",
        (GRACES, "if may_be_lost and not rotates:"),
    ),
    "the grace counts from the login": (
        "R2: not the same successor within the grace",
        ("        rotated_at=now,\n        presented", "        presented"),
    ),
    "the grace never ends": (
        "R2: outside the grace the answer is a new token|R2: a replacement",
        ("abs(now - session.rotated_at) <= timing.refresh_grace", "True"),
    ),
    "grace for any ancestor": (
        "R2: the row does not fit a genuine token",
        ("    if token.generation == session.parent:\n", "    if token.generation < session.generation:\n"),
    ),
    "nobody gets a replacement": ("R2: a lost answer logged the owner out", (RETRIES, "may_be_lost = False")),
    "whether the successor was presented does not matter": (
        "R2: a replacement though the successor was presented|R1: more than one line",
        ("not session.presented and now < spent_at", "now < spent_at"),
    ),
    "the first sight of a token is not noted": (
        "R2: a replacement though the successor was presented|R1: more than one line",
        ("token.generation == session.generation and not session.presented", "False"),
    ),
    "a replacement at any time": (
        "R2: a replacement after refresh_retry",
        (RETRIES, "may_be_lost = not session.presented"),
    ),
    "the time for a replacement counts anew": (
        "R2: a replacement after refresh_retry",
        ("parent_spent_at=session.parent_spent_at if again else now", "parent_spent_at=now"),
    ),
    "the replaced token becomes the parent": (
        "R2: a lost answer logged the owner out|R1: more than one line",
        ("        parent=token.generation,\n", "        parent=session.generation,\n"),
        ("session.parent_sealed if again else session.sealed", "session.sealed"),
    ),
    "the parent's seal is dropped": (
        "R2: the row does not fit a genuine token",
        ("parent_sealed=session.parent_sealed if again else session.sealed", "parent_sealed=None"),
    ),
    "the newest token rotates for a client that does without": (
        "R2: rotated though this client does without",
        ("if not rotates or (within_grace", "if (within_grace"),
    ),
    "a lost answer is replaced for a client that does without": (
        "R2: rotated though this client does without",
        (GRACES, "if within_grace:"),
    ),
    "a client that does without has no thieves": (
        "R2: a replacement|R2: neither the newest token nor its parent|R1: more than one line",
        (GRACES, "if within_grace or not rotates:"),
    ),
    "theft is only refused": (
        "R2: unknown for a genuine token",
        ("    return Stolen(session.rid)\n", "    return Refusal.UNKNOWN\n"),
    ),
    "a rotation is no change": (
        "R1|R2|R7",
        ("        version=session.version + 1,\n", "        version=session.version,\n"),
    ),
    "a forged token is genuine": (
        "R3",
        (
            "    except InvalidSignature:\n        return False",
            "    except InvalidSignature:\n        return True",
        ),
    ),
    "an ended session redeems": (
        "R5, R6: an ended or expired session",
        ("    if session.ended_at is not None:\n        return Refusal.ENDED\n", ""),
    ),
    "an idle session redeems": ("R5, R6: an ended or expired session", (" or now >= session.idle_until", "")),
    "an old session redeems": (
        "R5, R6: an ended or expired session|R1: a redemption never won",
        ("now >= session.expires_at or ", ""),
        ("), session.expires_at)", "), NumericDate(10**9))"),
    ),
    "a session is idle from its login on": (
        "R1: the newest token does not redeem|R2: expired for a genuine token",
        ("max(session.idle_until, now + timing.session_idle)", "session.idle_until"),
    ),
    "any client may refresh": (
        "R6: another client redeemed",
        ("    if client_id != session.client_id:\n        return Refusal.OTHER_CLIENT\n", ""),
    ),
    "another client's request is theft": (
        "R6: another client ended",
        ("        return Refusal.OTHER_CLIENT\n", "        return Stolen(session.rid)\n"),
    ),
    "a restore is theft": ("R7", ("return FromTheFuture(session.rid)", "return Stolen(session.rid)")),
    "a refresh widens the scope": (
        "R6: scope changed",
        ("        presented=False,\n", '        presented=False,\n        scope=(*session.scope, "all"),\n'),
    ),
    "the row forgets an access token": (
        "R5: the row forgot",
        ("last_exp=max(session.last_exp, exp)", "last_exp=session.last_exp"),
    ),
}
"""What is planted: the promise that it breaks, and what it replaces in the source of the sessions."""


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_a_rule_planted_wrong(name: str):
    """A search that cannot fail shows nothing: this one fails, for the right reason, on each wrong rule."""
    promise, *changes = PLANTED[name]
    find(machine(planted(sessions, *changes)), promise, steps=40, within=2_000)
