"""Every hasher keeps every clause of its port."""

from collections.abc import Iterator

import argon2
import pytest

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.testing.conformance.passwords import PasswordConformance, PasswordRig


@pytest.fixture
def rig() -> Iterator[PasswordRig]:
    hasher = Argon2Hasher(workers=1, queue=1)
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1)
    yield PasswordRig(hasher, 2, weak.hash)
    hasher.close()


class TestPasswords(PasswordConformance):
    """The suite, on Argon2id."""
