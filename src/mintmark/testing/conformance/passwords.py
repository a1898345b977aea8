"""The clauses of :mod:`mintmark.ports.passwords`, one test each; every hasher runs all of them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mintmark.errors import Overloaded
from mintmark.ports.passwords import PasswordCheck, PasswordHasher

PASSWORD = "Tr0ub4dor & 3 Straße "  # noqa: S105 - nobody's


@dataclass(frozen=True, slots=True)
class PasswordRig:
    """A hasher under test, that takes ``room`` calls at once."""

    hasher: PasswordHasher
    room: int
    weak_hash: Callable[[str], str]
    """A hash under parameters that are no longer good enough."""


class PasswordConformance:
    """PASSWORD-1 to PASSWORD-5."""

    async def test_nobody_costs_what_somebody_costs(self, rig: PasswordRig) -> None:
        """PASSWORD-1, PW8: without a hash the answer is WRONG, and it takes a place in the queue like any."""
        assert await rig.hasher.verify(None, PASSWORD) is PasswordCheck.WRONG
        hashed = await rig.hasher.hash(PASSWORD)
        asking = [rig.hasher.verify(hashed if n % 2 else None, "wrong") for n in range(rig.room + 1)]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert outcomes[:-1] == [PasswordCheck.WRONG] * rig.room
        assert isinstance(outcomes[-1], Overloaded)

    async def test_event_loop_turns_while_a_password_is_hashed(self, rig: PasswordRig) -> None:
        """PASSWORD-2: others have many turns before a hash or a comparison is done."""
        hashed = await rig.hasher.hash(PASSWORD)
        for work in (rig.hasher.hash(PASSWORD), rig.hasher.verify(hashed, PASSWORD)):
            working = asyncio.ensure_future(work)
            turns = 0
            while not working.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 2

    async def test_more_calls_than_the_bound_are_refused(self, rig: PasswordRig) -> None:
        """PASSWORD-3, PW13: just those beyond it, at once; afterwards there is room again."""
        outcomes = await asyncio.gather(
            *(rig.hasher.hash(PASSWORD) for _ in range(rig.room + 3)), return_exceptions=True
        )
        assert [isinstance(outcome, Overloaded) for outcome in outcomes] == [False] * rig.room + [True] * 3
        assert await rig.hasher.hash(PASSWORD)

    async def test_cancelled_call_gives_its_place_back(self, rig: PasswordRig) -> None:
        """PASSWORD-3: callers that go away do not use the bound up."""
        for _ in range(2):
            gone = [asyncio.ensure_future(rig.hasher.hash(PASSWORD)) for _ in range(rig.room)]
            await asyncio.sleep(0)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            while True:
                try:
                    assert await rig.hasher.hash(PASSWORD)
                except Overloaded:
                    await asyncio.sleep(0)  # threads cannot be interrupted: their places come free later
                else:
                    break

    async def test_weak_hash_verifies_and_wants_a_new_one(self, rig: PasswordRig) -> None:
        """PASSWORD-4, PW5: only for the right password, and never for a hash of today."""
        weak = rig.weak_hash(PASSWORD)
        assert await rig.hasher.verify(weak, PASSWORD) is PasswordCheck.RIGHT_BUT_WEAKLY_HASHED
        assert await rig.hasher.verify(weak, "wrong") is PasswordCheck.WRONG
        hashed = await rig.hasher.hash(PASSWORD)
        assert await rig.hasher.verify(hashed, PASSWORD) is PasswordCheck.RIGHT
        assert await rig.hasher.hash(PASSWORD) != hashed

    async def test_password_is_taken_whole(self, rig: PasswordRig) -> None:
        """PASSWORD-5, PW2: white space, case, long tails and characters that look alike all count."""
        long = "x" * 1_000
        pairs = [
            (PASSWORD, PASSWORD.strip()),
            (PASSWORD, PASSWORD.lower()),
            (PASSWORD, PASSWORD.replace("ß", "ss")),
            ("caf\u00e9", "cafe\u0301"),
            ("a\0b", "a\0c"),
            (long + "a", long + "b"),
            ("", " "),
        ]
        for password, other in pairs:
            hashed = await rig.hasher.hash(password)
            assert await rig.hasher.verify(hashed, password) is PasswordCheck.RIGHT
            assert await rig.hasher.verify(hashed, other) is PasswordCheck.WRONG
