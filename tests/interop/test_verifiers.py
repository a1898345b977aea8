"""Each verifier of the suite on its own: what it accepts and refuses, and when it asks for keys."""

from typing import Any

import pytest
from tests.interop.registry import REGISTRY, Entry, NewKey
from tests.interop.tokens import tampered
from tests.interop.verifier import Guarding, Verdict

from mintmark.testing import FakeIssuer, SigningKey
from mintmark.testing.key import Alg

LONG = 600
"""A cache that does not run out while a test runs."""


def mint(issuer: FakeIssuer, *, audience: str = "orders", **changed: Any) -> str:
    """An access token as an issuer would give it to a client with a scope."""
    return issuer.mint(audience=audience, scope="orders:read", **changed)


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_verifier_refuses_what_is_not_valid(entry: Entry, alg: Alg, tmp_path):
    """It accepts a token of the issuer; it refuses one that was changed, of another key under a known kid,
    for another audience, of another issuer, or that has expired."""
    with FakeIssuer(alg=alg) as issuer:
        guarding = Guarding(issuer=issuer.issuer, algorithm=alg, cache=LONG)
        with entry.start(guarding, tmp_path) as verify:
            good = mint(issuer)
            assert verify(good).verdict is Verdict.ACCEPTED, verify(good)
            stranger = SigningKey.generate(alg)
            wrong = {
                "changed": tampered(good),
                "another key": mint(issuer, signed_by=stranger, header={"kid": issuer.kid}),
                "another audience": mint(issuer, audience="invoices"),
                "another issuer": mint(issuer, iss="https://other.example"),
                "expired": mint(issuer, expires_in=-600),
            }
            said = {what: verify(token) for what, token in wrong.items()}
            assert {
                what for what, answer in said.items() if answer.verdict is not Verdict.REFUSED
            } == set(), said
            assert verify(good).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_verifier_meets_a_new_key_as_documented(entry: Entry, tmp_path):
    """Who asks at once accepts a token of a key that was published this moment; the others refuse it, without
    asking, until their cooldown or cache is over."""
    with (
        FakeIssuer(alg="RS256") as issuer,
        entry.start(Guarding(issuer=issuer.issuer, algorithm="RS256", cache=LONG), tmp_path) as verify,
    ):
        assert verify(mint(issuer)).verdict is Verdict.ACCEPTED
        asked = issuer.requests("jwks")
        issuer.rotate()
        said = verify(mint(issuer))
        if entry.new_key is NewKey.ASKS:
            assert said.verdict is Verdict.ACCEPTED, said
            assert issuer.requests("jwks") == asked + 1
        else:
            assert said.verdict is Verdict.REFUSED, said
            assert issuer.requests("jwks") == asked
