"""What the store gets of a shared key: signer.sealed."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mintmark.core import jwk, sealing
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.jws import PrivateKeyObject
from mintmark.core.sealing import SealKey
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.signer.keys import new_private_key
from mintmark.signer.sealed import Seals
from mintmark.system import SYSTEM_ENTROPY
from mintmark.units import Issuer, Kid

ISSUER, OTHER = Issuer("https://auth.example.com"), Issuer("https://auth.example.com/b")
KEYS = {alg: new_private_key(alg, 2048) for alg in Algorithm}
FIRST, SECOND = SealKey.from_bytes(b"1" * 32), SealKey.from_bytes(b"2" * 32)


def seals(*keys: SealKey) -> Seals:
    return Seals(keys or (FIRST,), entropy=SYSTEM_ENTROPY)


def public(alg: Algorithm) -> PublicKey:
    return jwk.public_key(KEYS[alg].public_key(), alg)


def sealed(alg: Algorithm, *keys: SealKey) -> bytes:
    return seals(*keys).seal(KEYS[alg], kid=public(alg).kid, issuer=ISSUER, alg=alg)


def reason(found: bytes, kid: Kid, issuer: Issuer, alg: Algorithm, *keys: SealKey) -> Refusal:
    """Why it is not opened; nor resealed, for the same reason, where it is the seal that is wrong."""
    with pytest.raises(SignerRefused) as refused:
        seals(*keys).open(found, kid=kid, issuer=issuer, alg=alg)
    return refused.value.reason


def secrets(private: PrivateKeyObject) -> set[bytes]:
    """What gives the key away: its numbers, in the byte orders of programs, and its encoded forms."""
    found = {private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())}
    secret: set[int] = set()
    match private:
        case rsa.RSAPrivateKey():
            numbers = private.private_numbers()
            secret = {numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp}
        case ec.EllipticCurvePrivateKey():
            secret = {private.private_numbers().private_value}
        case ed25519.Ed25519PrivateKey():
            return found | {private.private_bytes_raw()}
    for number in secret:
        size = (number.bit_length() + 7) // 8
        # A part of a factor is enough to find the rest of it.
        found |= {number.to_bytes(size)[:16], number.to_bytes(size, "little")[:16]}
    return found


@pytest.mark.parametrize("alg", list(Algorithm))
def test_row_holds_nothing_that_signs(alg: Algorithm):
    """KY5: of a sealed key no number and no part of its clear form is in what the store gets."""
    found = sealed(alg)
    clear = KEYS[alg].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for secret in secrets(KEYS[alg]):
        assert secret in clear or secret[::-1] in clear or alg is not Algorithm.ES256
        assert secret not in found
    assert not any(clear[at : at + 8] in found for at in range(len(clear) - 8))


@pytest.mark.parametrize("alg", list(Algorithm))
def test_what_was_sealed_is_the_key_again(alg: Algorithm):
    """It opens to the private half of its kid, with each key-encryption key that is there."""
    for keys in ((FIRST,), (SECOND, FIRST)):
        half, private = seals(*keys).open(sealed(alg), kid=public(alg).kid, issuer=ISSUER, alg=alg)
        assert half == public(alg)
        assert private.public_key() == KEYS[alg].public_key()


def test_two_seals_of_one_key_differ():
    """SP 800-38D s.8: each seal has a nonce of its own."""
    assert sealed(Algorithm.ES256)[9:21] != sealed(Algorithm.ES256)[9:21]


def test_row_in_the_place_of_another_opens_nothing():
    """KY2: who can write the store can give no key to another issuer, name, or algorithm."""
    alg, kid = Algorithm.RS256, public(Algorithm.RS256).kid
    found = sealed(alg)
    assert reason(found, kid, OTHER, alg) is Refusal.SEALED
    assert reason(found, kid, ISSUER, Algorithm.PS256) is Refusal.SEALED
    assert reason(found, public(Algorithm.ES256).kid, ISSUER, alg) is Refusal.SEALED
    assert reason(found, Kid(""), ISSUER, alg) is Refusal.SEALED


def test_key_that_is_not_the_one_of_its_name_is_refused():
    """Even where somebody who has the key-encryption key sealed it so."""
    kid, alg = public(Algorithm.ES256).kid, Algorithm.ES256
    for private, claimed in (
        (ec.generate_private_key(ec.SECP256R1()), alg),
        (ec.generate_private_key(ec.SECP384R1()), alg),
        (KEYS[Algorithm.EDDSA], alg),
        (KEYS[Algorithm.ES256], Algorithm.RS256),
    ):
        found = seals().seal(private, kid=kid, issuer=ISSUER, alg=claimed)
        assert reason(found, kid, ISSUER, claimed) is Refusal.SEALED
    context = sealing.context_of(ISSUER, kid, alg.value)
    for plain in (b"", b"no key", b"\x30\x00"):
        found = sealing.seal(plain, key=FIRST, nonce=bytes(12), context=context)
        assert reason(found, kid, ISSUER, alg) is Refusal.SEALED


def test_missing_key_and_changed_bytes_are_told_apart():
    """A setting that is missing is no custody; anything else is a broken seal. Resealing says the same."""
    alg, kid = Algorithm.ES256, public(Algorithm.ES256).kid
    found = sealed(alg)
    assert reason(found, kid, ISSUER, alg, SECOND) is Refusal.NO_CUSTODY
    changed = found[:-1] + bytes([found[-1] ^ 1])
    for broken in (changed, found[:-1], found[:20], b"", b"\x02" + found[1:]):
        assert reason(broken, kid, ISSUER, alg) is Refusal.SEALED
        with pytest.raises(SignerRefused) as refused:
            seals().reseal(broken, kid=kid, issuer=ISSUER, alg=alg)
        assert refused.value.reason is Refusal.SEALED


def test_resealed_key_needs_the_old_key_no_more():
    """The newer key-encryption key is enough afterwards, and another time changes nothing."""
    alg, kid = Algorithm.ES256, public(Algorithm.ES256).kid
    both = seals(SECOND, FIRST)
    again = both.reseal(sealed(alg), kid=kid, issuer=ISSUER, alg=alg)
    assert again is not None
    assert seals(SECOND).open(again, kid=kid, issuer=ISSUER, alg=alg)[0] == public(alg)
    assert both.reseal(again, kid=kid, issuer=ISSUER, alg=alg) is None
    assert reason(again, kid, ISSUER, alg, FIRST) is Refusal.NO_CUSTODY
