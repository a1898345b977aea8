"""The rules of the key table, under a clock that stands still: signer.keys."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import jwk, jws
from mintmark.core.algorithm import Algorithm
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.signer.keys import KeyTable, new_private_key
from mintmark.testing.clock import FakeClock
from mintmark.units import Issuer, Kid, NumericDate

ISSUER = Issuer("https://auth.example.com")
PRIVATE = ed25519.Ed25519PrivateKey.generate()


class Held:
    """A table with one key, and its clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.table = KeyTable(self.clock)
        public = jwk.public_key(PRIVATE.public_key(), Algorithm.EDDSA)
        self.table.add(public, PRIVATE, issuer=ISSUER, typs=frozenset({"at+jwt"}))
        self.kid = public.kid

    def extend(self, lease: int, ttl: int = 900) -> None:
        """As after a renewal that lasts ``lease`` seconds."""
        until = self.clock.now() + lease
        self.table.extend(self.kid, max_exp=NumericDate(until + ttl), lease_until=NumericDate(until))

    def sign(self, exp: int) -> str:
        """A token that expires at ``exp``."""
        payload = msgspec.json.encode({"iss": ISSUER, "exp": exp})
        admitted = self.table.admit(self.kid, "at+jwt", payload)
        return self.table.finish(admitted, admitted.signature())

    def refusal(self, exp: int) -> Refusal:
        """Why that is not signed."""
        with pytest.raises(SignerRefused) as refused:
            self.sign(exp)
        return refused.value.reason


def test_lease_ends_to_the_second():
    """At lease_until nothing is signed any more; a second earlier it was."""
    held = Held()
    held.extend(120)
    held.clock.advance(119)
    assert held.sign(held.clock.now() + 60)
    held.clock.advance(1)
    assert held.refusal(held.clock.now() + 60) is Refusal.LEASE_ENDED


def test_clock_that_is_set_back_does_not_lengthen_a_lease():
    """SIGNER-10: the clock that no step moves ends the lease although the wall clock says otherwise."""
    held = Held()
    held.extend(120)
    held.clock.step(-3600)
    held.clock.advance(120)
    assert held.refusal(held.clock.now() + 60) is Refusal.LEASE_ENDED


def test_clock_that_is_set_forward_ends_a_lease():
    """SIGNER-10: either clock alone is enough to refuse."""
    held = Held()
    held.extend(120)
    held.clock.step(120)
    assert held.refusal(held.clock.now() + 60) is Refusal.LEASE_ENDED


def test_renewed_lease_signs_again():
    """A lease that had lapsed goes on when it is renewed, and its limit with it."""
    held = Held()
    held.extend(120)
    held.clock.advance(500)
    held.extend(120)
    assert held.sign(held.clock.now() + 120 + 900)


def test_lease_that_is_repeated_does_not_run_longer():
    """SIGNER-8: an extend that is delivered again later does not start the second clock anew."""
    held = Held()
    until = NumericDate(held.clock.now() + 120)
    held.table.extend(held.kid, max_exp=NumericDate(until + 900), lease_until=until)
    held.clock.step(-120)
    held.clock.advance(119)
    held.table.extend(held.kid, max_exp=NumericDate(until + 900), lease_until=until)
    held.clock.advance(1)
    assert held.refusal(held.clock.now() + 60) is Refusal.LEASE_ENDED


def test_signature_that_had_begun_is_not_given_out_after_forget():
    """SIGNER-9: a key forgotten while a thread signs with it gives no token."""
    held = Held()
    held.extend(120)
    payload = msgspec.json.encode({"iss": ISSUER, "exp": held.clock.now() + 60})
    admitted = held.table.admit(held.kid, "at+jwt", payload)
    signature = admitted.signature()
    held.table.forget(held.kid)
    with pytest.raises(SignerRefused) as refused:
        held.table.finish(admitted, signature)
    assert refused.value.reason is Refusal.UNKNOWN_KEY


extends = st.tuples(st.just("extend"), st.integers(-300, 300), st.integers(-100, 1000))
moves = st.tuples(st.sampled_from(["advance", "step"]), st.integers(0, 400), st.just(0))
signings = st.tuples(st.just("sign"), st.integers(-100, 2000), st.integers(0, 4000))


@given(extends, st.lists(st.one_of(extends, moves, signings, signings, signings), min_size=5, max_size=30))
def test_no_token_outlives_the_highest_limit_ever_given(first_extend, later):
    """K3: whatever is extended, however the clocks move, and however long a signing was paused half way."""
    held = Held()
    highest = None
    for step, first, second in [first_extend, *later]:
        match step:
            case "extend":
                until = held.clock.now() + first
                limit = until + second
                highest = limit if highest is None else max(highest, limit)
                held.table.extend(held.kid, max_exp=NumericDate(limit), lease_until=NumericDate(until))
            case "advance":
                held.clock.advance(first)
            case "step":
                held.clock.step(first - 200)
            case _:
                exp = held.clock.now() + first
                payload = msgspec.json.encode({"iss": ISSUER, "exp": exp})
                try:
                    admitted = held.table.admit(held.kid, "at+jwt", payload)
                except SignerRefused:
                    continue
                held.clock.advance(second)  # paused between check and signature
                token = held.table.finish(admitted, admitted.signature())
                assert highest is not None
                assert msgspec.json.decode(jws.parse(token).payload)["exp"] <= highest


def test_status_counts_signatures_and_shows_nothing_secret():
    """A key's status names it, its lease and its work; no private value is in the table's text forms."""
    held = Held()
    held.extend(120)
    for _ in range(3):
        held.sign(held.clock.now() + 60)
    (status,) = held.table.status()
    assert (status.kid, status.signed, status.lease_until) == (held.kid, 3, held.clock.now() + 120)
    secret = PRIVATE.private_bytes_raw().hex()
    admitted = held.table.admit(
        held.kid, "at+jwt", msgspec.json.encode({"iss": ISSUER, "exp": held.clock.now() + 60})
    )
    for shown in (repr(status), repr(held.table), repr(admitted), repr(admitted.key)):
        assert secret not in shown
        assert "private" not in shown.lower()


def test_forget_all_leaves_nothing():
    """After forget_all no key signs."""
    held = Held()
    held.extend(120)
    held.table.forget_all()
    assert held.refusal(held.clock.now() + 60) is Refusal.UNKNOWN_KEY
    assert held.table.status() == ()


@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa_keys_have_the_size_that_was_set(bits):
    """KY1: RSA keys are of 2048 or 3072 bits with exponent 65537."""
    key = new_private_key(Algorithm.RS256, bits)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == bits
    assert key.public_key().public_numbers().e == 65537


def test_unknown_key_is_refused_everywhere():
    """A kid that was never made is refused by extend and admit, and forget does not mind."""
    held = Held()
    held.table.forget(Kid("other"))
    with pytest.raises(SignerRefused):
        held.table.extend(Kid("other"), max_exp=NumericDate(1), lease_until=NumericDate(1))
    with pytest.raises(SignerRefused):
        held.table.admit(Kid("other"), "at+jwt", b"{}")
