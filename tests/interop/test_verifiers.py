"""Each verifier of the suite on its own: what it accepts and refuses, and when it asks for keys."""

from typing import Any

import pytest
from tests.cluster.running import until
from tests.interop.registry import REGISTRY, Entry, GoneKey, NewKey
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
        guarding = Guarding(issuer=issuer.issuer, algorithms=(alg,), cache=LONG)
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


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("alg", ["PS256", "EdDSA"])
@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_verifier_takes_the_algorithms_that_are_documented(entry: Entry, alg: Alg, tmp_path):
    """It accepts a token of PS256 or EdDSA just where the registry, and with it the page, says so."""
    with (
        FakeIssuer(alg=alg) as issuer,
        entry.start(Guarding(issuer=issuer.issuer, algorithms=(alg,), cache=LONG), tmp_path) as verify,
    ):
        said = verify(mint(issuer))
    assert (said.verdict is Verdict.ACCEPTED) == (alg in entry.also), said


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_verifier_meets_a_new_key_as_documented(entry: Entry, tmp_path):
    """Who asks at once accepts a token of a key that was published this moment; the others refuse it, without
    asking, until their cooldown or cache is over."""
    with (
        FakeIssuer(alg="RS256") as issuer,
        entry.start(Guarding(issuer=issuer.issuer, cache=LONG), tmp_path) as verify,
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


def those(gone_key: GoneKey) -> list[Entry]:
    """The verifiers that treat a key like that."""
    return [entry for entry in REGISTRY if entry.gone_key is gone_key]


@pytest.mark.parametrize("entry", those(GoneKey.CACHE), ids=lambda entry: entry.name)
def test_verifier_forgets_a_key_that_left_the_set(entry: Entry, tmp_path):
    """K7: once its cache has run out, it refuses tokens of a key that was taken out of the set."""
    with (
        FakeIssuer(alg="RS256") as issuer,
        entry.start(Guarding(issuer=issuer.issuer, cache=2), tmp_path) as verify,
    ):
        token = mint(issuer)
        assert verify(token).verdict is Verdict.ACCEPTED
        gone = issuer.kid
        issuer.rotate()
        issuer.withdraw(gone)
        until(lambda: verify(token).verdict is Verdict.REFUSED, "it refuses the token")


@pytest.mark.parametrize("entry", those(GoneKey.USE), ids=lambda entry: entry.name)
def test_verifier_that_never_forgets_is_known(entry: Entry, tmp_path):
    """It goes on with a key that left, however often it is told that the set holds it no more: each question
    within its cache time prolongs the copy that it kept."""
    with (
        FakeIssuer(alg="RS256") as issuer,
        entry.start(Guarding(issuer=issuer.issuer, cache=6), tmp_path) as verify,
    ):
        token = mint(issuer)
        assert verify(token).verdict is Verdict.ACCEPTED
        gone = issuer.kid
        issuer.rotate()
        issuer.withdraw(gone)
        asked = issuer.requests("jwks")

        def was_told() -> bool:
            assert verify(token).verdict is Verdict.ACCEPTED
            return issuer.requests("jwks") >= asked + 10

        until(was_told, "it has asked again and again")


@pytest.mark.parametrize("keys", [5, 24], ids=["by default", "with room for all"])
def test_jwks_rsa_needs_room_for_every_key(keys: int, tmp_path):
    """It fetches key by key, at most ten times a minute: with its default, room for five keys, it refuses
    valid tokens where eight keys sign in turn. With room for as many as there may be it refuses none."""
    (entry,) = [entry for entry in REGISTRY if entry.name == "jwks-rsa"]
    with FakeIssuer(alg="ES256") as issuer:
        signing = [issuer.prepare() for _ in range(8)]
        tokens = [mint(issuer, signed_by=key) for _ in range(3) for key in signing]
        guarding = Guarding(issuer=issuer.issuer, algorithms=("ES256",), cache=LONG, keys=keys)
        assert guarding.per_minute == 10
        with entry.start(guarding, tmp_path) as verify:
            said = [verify(token) for token in tokens]
    refused = {each.reason for each in said if each.verdict is Verdict.REFUSED}
    if keys < len(signing):
        assert refused == {"JwksRateLimitError: Too many requests to the JWKS endpoint"}
    else:
        assert [each.verdict for each in said] == [Verdict.ACCEPTED] * len(tokens)
