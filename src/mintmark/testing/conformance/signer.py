"""The clauses of :mod:`mintmark.ports.signer` about signing, one test each; every signer runs all of them.

A test class for an implementation inherits :class:`SignerConformance` and gives it a fixture ``rig``.
"""

import asyncio

import msgspec
import pytest

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.errors import SignerUnavailable
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.testing.conformance.signing import ISSUER, LEASE, TYP, Rig
from mintmark.units import Kid, NumericDate


class SignerConformance:
    """One test for each clause SIGNER-1 to SIGNER-14; the others are those of CustodyConformance."""

    @pytest.mark.parametrize("alg", list(Algorithm))
    async def test_generated_keys_are_new_and_only_their_public_half_comes_out(
        self, rig: Rig, alg: Algorithm
    ) -> None:
        """SIGNER-1, JM1: two keys differ, are pinned to the algorithm, and have no private member."""
        if not await rig.has(alg):
            return
        first, second = await rig.generate(alg), await rig.generate(alg)
        assert first.kid != second.kid
        assert first.alg is alg
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & first.jwk.keys()

    async def test_new_key_signs_nothing_before_its_first_extend(self, rig: Rig) -> None:
        """SIGNER-2: what a lease would allow is refused without one."""
        key = await rig.generate()
        assert await rig.refusal(key.kid, TYP, rig.payload()) is Refusal.NOT_EXTENDED
        (held,) = (await rig.control.status()).keys
        assert (held.kid, held.max_exp, held.lease_until) == (key.kid, None, None)

    @pytest.mark.parametrize("alg", list(Algorithm))
    async def test_token_is_the_payload_under_the_signers_own_header(self, rig: Rig, alg: Algorithm) -> None:
        """SIGNER-3: the bytes are the caller's, the header has three members, and the key verifies it."""
        if not await rig.has(alg):
            return
        key = await rig.ready_key(alg)
        payload = b' {"exp":%d , "iss":"%s", "note":"\xc3\xa4"}\n' % (rig.clock.now() + 60, ISSUER.encode())
        signed = jws.parse(await rig.signer.sign(key.kid, TYP, payload))
        assert signed.payload == payload
        assert dict(signed.header.members) == {"alg": alg.value, "kid": key.kid, "typ": TYP}
        jws.verify(key, signed.signing_input, signed.signature)

    async def test_exp_up_to_the_limit_is_signed_and_one_second_more_is_not(self, rig: Rig) -> None:
        """SIGNER-4, K3: no token outlives what its key's publication covers."""
        key = await rig.ready_key()
        (held,) = (await rig.control.status()).keys
        assert held.max_exp is not None
        assert await rig.signer.sign(key.kid, TYP, rig.payload(exp=held.max_exp))
        for exp in (held.max_exp + 1, 2**53, 2**63 - 1):
            assert await rig.refusal(key.kid, TYP, rig.payload(exp=exp)) is Refusal.EXP_PAST_LIMIT

    @pytest.mark.parametrize("exp", [msgspec.UNSET, None, True, 1.8e9, "1800000000", [], {}], ids=repr)
    async def test_exp_that_is_no_integer_is_refused(self, rig: Rig, exp: object) -> None:
        """SIGNER-4: a missing exp, and one that a verifier could read otherwise, is never signed."""
        key = await rig.ready_key()
        assert await rig.refusal(key.kid, TYP, rig.payload(exp=exp)) is Refusal.BAD_EXP

    @pytest.mark.parametrize(
        "iss",
        [msgspec.UNSET, None, "", ISSUER + "/", ISSUER.upper(), "https://other.example.com", [ISSUER]],
        ids=repr,
    )
    async def test_claims_of_another_issuer_are_refused(self, rig: Rig, iss: object) -> None:
        """SIGNER-5, KY2: one key, one issuer, compared byte for byte."""
        key = await rig.ready_key()
        assert await rig.refusal(key.kid, TYP, rig.payload(iss=iss)) is Refusal.WRONG_ISSUER

    @pytest.mark.parametrize("typ", ["JWT", "", "AT+JWT", "application/at+jwt", "logout+jwt", 'at+jwt"'])
    async def test_another_typ_is_refused(self, rig: Rig, typ: str) -> None:
        """SIGNER-6, TC3: a key for access tokens makes nothing that passes for an ID or logout token."""
        key = await rig.ready_key()
        assert await rig.refusal(key.kid, typ, rig.payload()) is Refusal.WRONG_TYP

    async def test_key_signs_under_each_typ_that_it_was_made_for(self, rig: Rig) -> None:
        """SIGNER-6: the header's typ is the one that was asked for."""
        typs = frozenset({"at+jwt", "JWT", "logout+jwt"})
        key = (await rig.make(typs=typs)).public
        await rig.extend(key.kid)
        for typ in typs:
            signed = jws.parse(await rig.signer.sign(key.kid, typ, rig.payload()))
            assert signed.header.members["typ"] == typ

    @pytest.mark.parametrize(
        "text",
        [
            '{"exp":EXP,"iss":"ISS","exp":9999999999}',
            '{"exp":9999999999,"iss":"ISS","exp":EXP}',
            '{"exp":EXP,"iss":"ISS","iss":"https://other.example.com"}',
            '{"exp":EXP,"iss":"ISS","\\u0065xp":9999999999}',
            '{"exp":EXP,"iss":"ISS","x":{"a":1,"a":2}}',
            '{"exp":EXP,"iss":"ISS","x":NaN}',
            '{"exp":EXP,"iss":"ISS"}{}',
            '{"exp":EXP,"iss":"ISS",}',
            '\ufeff{"exp":EXP,"iss":"ISS"}',
            '[{"exp":EXP,"iss":"ISS"}]',
            '"ISS"',
            "",
        ],
    )
    async def test_payload_that_is_not_one_strict_object_is_refused(self, rig: Rig, text: str) -> None:
        """SIGNER-7: a duplicate member, even escaped or nested, or any other ambiguity, is not signed."""
        key = await rig.ready_key()
        payload = text.replace("EXP", str(rig.clock.now() + 60)).replace("ISS", ISSUER).encode()
        assert await rig.refusal(key.kid, TYP, payload) is Refusal.BAD_PAYLOAD

    async def test_payload_larger_than_a_token_may_be_is_refused(self, rig: Rig) -> None:
        """SIGNER-7: whatever its size, and the channel lives on."""
        key = await rig.ready_key()
        for size in (6_000, 60_000, 6_000_000):
            assert await rig.refusal(key.kid, TYP, rig.payload(x="x" * size)) is Refusal.TOO_LARGE
        assert await rig.signer.sign(key.kid, TYP, rig.payload())

    async def test_extend_never_lowers(self, rig: Rig) -> None:
        """SIGNER-8: an extend that comes late, or twice, leaves limit and lease where they are."""
        key = await rig.ready_key()
        before = (await rig.control.status()).keys
        now = rig.clock.now()
        await rig.control.extend(key.kid, max_exp=NumericDate(now - 5), lease_until=NumericDate(now - 10))
        assert (await rig.control.status()).keys == before
        later = rig.max_exp() + 500
        await rig.control.extend(key.kid, max_exp=NumericDate(later), lease_until=NumericDate(0))
        assert await rig.signer.sign(key.kid, TYP, rig.payload(exp=later))

    @pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
    async def test_nothing_signs_after_forget(self, rig: Rig, alg: Algorithm) -> None:
        """SIGNER-9, K7: what was under way ends one way or the other; what comes later is refused."""
        key = await rig.ready_key(alg)
        under_way = [asyncio.ensure_future(rig.signer.sign(key.kid, TYP, rig.payload())) for _ in range(50)]
        await rig.control.forget(key.kid)
        assert await rig.refusal(key.kid, TYP, rig.payload()) is Refusal.UNKNOWN_KEY
        for outcome in await asyncio.gather(*under_way, return_exceptions=True):
            if isinstance(outcome, SignerRefused):
                assert outcome.reason is Refusal.UNKNOWN_KEY
            else:
                assert isinstance(outcome, str)
        assert (await rig.control.status()).keys == ()

    async def test_forgetting_again_is_no_error_and_cannot_be_undone(self, rig: Rig) -> None:
        """SIGNER-9: forget is idempotent, and extend does not bring a key back."""
        key = await rig.ready_key()
        await rig.control.forget(key.kid)
        await rig.control.forget(key.kid)
        await rig.control.forget(Kid("never"))
        now = rig.clock.now()
        with pytest.raises(SignerRefused) as refused:
            await rig.control.extend(key.kid, max_exp=rig.max_exp(), lease_until=NumericDate(now + LEASE))
        assert refused.value.reason is Refusal.UNKNOWN_KEY

    async def test_nothing_is_signed_after_the_lease(self, rig: Rig) -> None:
        """SIGNER-10: a lease that has passed by the wall clock ends signing although exp would be covered."""
        key = await rig.generate()
        now = rig.clock.now()
        await rig.control.extend(key.kid, max_exp=rig.max_exp(), lease_until=now)
        assert await rig.refusal(key.kid, TYP, rig.payload()) is Refusal.LEASE_ENDED

    async def test_nothing_that_has_expired_is_signed(self, rig: Rig) -> None:
        """SIGNER-10: an exp that is not in the future is refused."""
        key = await rig.ready_key()
        for exp in (rig.clock.now(), 0, -1):
            assert await rig.refusal(key.kid, TYP, rig.payload(exp=exp)) is Refusal.EXPIRED

    async def test_refusals_are_unavailability_and_change_nothing(self, rig: Rig) -> None:
        """SIGNER-11: a refusal can be answered with 503, and leaves keys and counts as they were."""
        key = await rig.ready_key()
        before = await rig.control.status()
        with pytest.raises(SignerUnavailable) as refused:
            await rig.signer.sign(Kid("other"), TYP, rig.payload(sub="canary"))
        assert "canary" not in str(refused.value)
        for payload in (b"", rig.payload(exp=1), rig.payload(iss="x")):
            await rig.refusal(key.kid, TYP, payload)
        assert await rig.control.status() == before
        assert await rig.signer.sign(key.kid, TYP, rig.payload())

    @pytest.mark.parametrize("typs", [frozenset(), frozenset({"at+jwt", 'x","alg":"none'}), frozenset({""})])
    async def test_key_without_a_proper_typ_is_not_made(self, rig: Rig, typs: frozenset[str]) -> None:
        """SIGNER-11: a typ that would not be a media type's name makes no key."""
        with pytest.raises(SignerRefused) as refused:
            await rig.make(typs=typs)
        assert refused.value.reason is Refusal.WRONG_TYP
        assert (await rig.control.status()).keys == ()

    async def test_number_of_keys_is_bounded(self, rig: Rig) -> None:
        """SIGNER-11: the key too many is refused, and forgetting one makes room."""
        kids: list[Kid] = []
        refused: SignerRefused | None = None
        while refused is None and len(kids) < 1000:
            try:
                kids.append((await rig.generate()).kid)
            except SignerRefused as error:
                refused = error
        assert refused is not None
        assert refused.reason is Refusal.TOO_MANY_KEYS
        await rig.control.forget(kids[0])
        await rig.generate()

    @pytest.mark.parametrize("alg", [Algorithm.RS256, Algorithm.ES256])
    async def test_concurrent_calls_are_independent(self, rig: Rig, alg: Algorithm) -> None:
        """SIGNER-12: of many at once each gets its own claims' token, unless refused or cancelled."""
        key = await rig.ready_key(alg)
        calls = {
            number: asyncio.ensure_future(
                rig.signer.sign(key.kid, TYP if number % 5 else "JWT", rig.payload(jti=str(number)))
            )
            for number in range(100)
        }
        await asyncio.sleep(0)
        for number in range(1, 100, 10):
            calls[number].cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        for number, call in calls.items():
            if number % 10 == 1:
                assert call.cancelled()
            elif number % 5 == 0:
                assert isinstance(call.exception(), SignerRefused)
            else:
                assert msgspec.json.decode(jws.parse(call.result()).payload)["jti"] == str(number)

    async def test_attached_channels_sign_and_end_apart(self, rig: Rig) -> None:
        """SIGNER-13: a worker's channel that is damaged or closed takes nothing else with it."""
        key = await rig.ready_key()
        good = rig.connect(await rig.control.attach())
        try:
            damaged = await rig.control.attach()
            damaged.setblocking(False)
            with damaged:
                damaged.send(b"GET / HTTP/1.1\r\n\r\n")
                assert await asyncio.get_running_loop().sock_recv(damaged, 100) == b""
            (await rig.control.attach()).close()
            assert await good.sign(key.kid, TYP, rig.payload())
            assert await rig.signer.sign(key.kid, TYP, rig.payload())
        finally:
            close = getattr(good, "close", None)
            if close is not None:
                close()

    async def test_every_call_fails_once_the_signer_is_gone(self, rig: Rig) -> None:
        """SIGNER-14: calls that were waiting, and later ones, raise SignerUnavailable and none hangs."""
        key = await rig.ready_key(Algorithm.RS256)
        waiting = [asyncio.ensure_future(rig.signer.sign(key.kid, TYP, rig.payload())) for _ in range(100)]
        await asyncio.sleep(0)
        await rig.end()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(type(outcome) is SignerUnavailable for outcome in outcomes if not isinstance(outcome, str))
        now = rig.clock.now()
        for call in (
            rig.signer.sign(key.kid, TYP, rig.payload()),
            rig.generate(),
            rig.control.extend(key.kid, max_exp=rig.max_exp(), lease_until=NumericDate(now + LEASE)),
            rig.control.forget(key.kid),
            rig.control.status(),
            rig.control.attach(),
        ):
            with pytest.raises(SignerUnavailable):
                await call
