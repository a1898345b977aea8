"""The clauses of :mod:`mintmark.ports.signer` about keys that outlive a signer, one test each.

A test class for an implementation inherits :class:`CustodyConformance` and gives it a fixture ``rig``.
"""

import asyncio
import contextlib

import pytest

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.ports.signer import Refusal, SignerRefused
from mintmark.testing.conformance.signing import ISSUER, TYP, Rig
from mintmark.units import Issuer, Kid, Seconds

OTHER = Issuer("https://auth.example.com/other")


class CustodyConformance:
    """One test for each clause SIGNER-15 to SIGNER-20."""

    async def test_mode_that_is_not_configured_is_refused(self, rig: Rig) -> None:
        """SIGNER-15: it makes and loads nothing, status does not name it, and own keys are not loaded."""
        modes = (await rig.control.status()).modes
        assert {KeyMode.OWN, rig.mode} <= modes
        for mode in KeyMode:
            if mode not in modes:
                with pytest.raises(SignerRefused) as refused:
                    await rig.control.generate(
                        issuer=ISSUER, alg=Algorithm.ES256, typs=frozenset({TYP}), mode=mode
                    )
                assert refused.value.reason is Refusal.NO_CUSTODY
            if mode not in modes or mode is KeyMode.OWN:
                with pytest.raises(SignerRefused) as refused:
                    await rig.control.load(
                        kid=Kid("x"),
                        issuer=ISSUER,
                        alg=Algorithm.ES256,
                        typs=frozenset({TYP}),
                        mode=mode,
                        sealed=b"x",
                    )
                assert refused.value.reason is Refusal.NO_CUSTODY
        assert (await rig.control.status()).keys == ()

    @pytest.mark.parametrize("alg", list(Algorithm))
    async def test_key_of_another_signer_is_loaded_and_keeps_the_rules(
        self, rig: Rig, alg: Algorithm
    ) -> None:
        """SIGNER-16: it signs nothing before its first extend, and then what its public half verifies."""
        if rig.twin is None or not await rig.has(alg):
            return
        made = await rig.twin.generate(issuer=ISSUER, alg=alg, typs=frozenset({TYP}), mode=rig.mode)
        kid = made.public.kid
        assert await rig.refusal(kid, TYP, rig.payload()) is Refusal.UNKNOWN_KEY
        await rig.load(made)
        assert await rig.refusal(kid, TYP, rig.payload()) is Refusal.NOT_EXTENDED
        await rig.extend(kid)
        before = (await rig.control.status()).keys
        assert [key.mode for key in before] == [rig.mode]
        await rig.load(made)
        assert (await rig.control.status()).keys == before
        signed = jws.parse(await rig.signer.sign(kid, TYP, rig.payload()))
        jws.verify(made.public, signed.signing_input, signed.signature)
        assert await rig.refusal(kid, TYP, rig.payload(iss="https://x")) is Refusal.WRONG_ISSUER
        await rig.control.forget(kid)
        assert await rig.refusal(kid, TYP, rig.payload()) is Refusal.UNKNOWN_KEY
        await rig.load(made)
        assert await rig.refusal(kid, TYP, rig.payload()) is Refusal.NOT_EXTENDED

    async def test_key_that_is_forgotten_while_it_is_loaded_stays_forgotten(self, rig: Rig) -> None:
        """SIGNER-9, SIGNER-16: a load that began before a forget leaves no key behind."""
        if rig.twin is None:
            return
        typs = frozenset({TYP})
        made = await rig.twin.generate(issuer=ISSUER, alg=Algorithm.ES256, typs=typs, mode=rig.mode)
        loading = asyncio.ensure_future(rig.load(made))
        await asyncio.sleep(0)
        await rig.control.forget(made.public.kid)
        with contextlib.suppress(SignerRefused):
            await loading
        assert (await rig.control.status()).keys == ()

    async def test_key_is_loaded_as_what_it_was_made_for_and_as_nothing_else(self, rig: Rig) -> None:
        """SIGNER-17, KY2: another kid, issuer or algorithm is refused, and leaves no key behind."""
        if rig.twin is None:
            return
        made, other = await rig.make(), await rig.make()
        for key in (made, other):
            await rig.control.forget(key.public.kid)
        reason = Refusal.SEALED if rig.mode is KeyMode.SHARED else Refusal.ABSENT
        never = Kid("A" * 43)
        attempts = [
            rig.load(made, issuer=OTHER),
            rig.load(made, alg=Algorithm.PS256),
            rig.load(made, kid=never),
        ]
        if rig.mode is KeyMode.SHARED:
            attempts += [
                rig.load(made, kid=other.public.kid),
                rig.load(made, sealed=made.sealed[:-1] if made.sealed else b""),
                rig.load(made, sealed=b""),
            ]
        for attempt in attempts:
            with pytest.raises(SignerRefused) as refused:
                await attempt
            assert refused.value.reason is reason
        assert (await rig.control.status()).keys == ()
        await rig.load(made)
        with pytest.raises(SignerRefused):
            await rig.load(made, issuer=OTHER)
        assert [(key.kid, key.issuer) for key in (await rig.control.status()).keys] == [
            (made.public.kid, ISSUER)
        ]

    async def test_only_a_shared_key_comes_out_and_only_sealed(self, rig: Rig) -> None:
        """SIGNER-18: other modes give no private half in any form, and resealing once is enough."""
        made = await rig.make()
        assert (made.sealed is not None) == (rig.mode is KeyMode.SHARED)
        kid = made.public.kid
        if made.sealed is not None:
            assert (
                await rig.control.reseal(kid=kid, issuer=ISSUER, alg=Algorithm.ES256, sealed=made.sealed)
                is None
            )
            with pytest.raises(SignerRefused) as refused:
                await rig.control.reseal(kid=kid, issuer=OTHER, alg=Algorithm.ES256, sealed=made.sealed)
            assert refused.value.reason is Refusal.SEALED
        elif KeyMode.SHARED not in (await rig.control.status()).modes:
            with pytest.raises(SignerRefused) as refused:
                await rig.control.reseal(kid=kid, issuer=ISSUER, alg=Algorithm.ES256, sealed=b"x")
            assert refused.value.reason is Refusal.NO_CUSTODY

    async def test_forgotten_key_is_in_its_token_until_it_is_destroyed(self, rig: Rig) -> None:
        """SIGNER-19: forget keeps what another node may sign with; destroy ends it for all, twice is fine."""
        made = await rig.make()
        kid = made.public.kid
        await rig.control.forget(kid)
        if rig.mode is KeyMode.HSM:
            await rig.load(made)
        for _ in range(2):
            await rig.control.forget(kid, destroy=True)
        assert await rig.refusal(kid, TYP, rig.payload()) is Refusal.UNKNOWN_KEY
        if rig.mode is KeyMode.HSM:
            with pytest.raises(SignerRefused) as refused:
                await rig.load(made)
            assert refused.value.reason is Refusal.ABSENT

    async def test_sweep_destroys_only_what_nobody_knows(self, rig: Rig) -> None:
        """SIGNER-20: what is known, loaded, of another issuer or too new stays."""
        known, held, left = await rig.make(), await rig.make(), await rig.make()
        foreign = await rig.make(issuer=OTHER)
        for made in (known, left, foreign):
            await rig.control.forget(made.public.kid)
        kids = frozenset({known.public.kid})
        assert await rig.control.sweep(known=kids, issuer=ISSUER, older_than=Seconds(3600)) == ()
        swept = await rig.control.sweep(known=kids, issuer=ISSUER, older_than=Seconds(-1))
        if rig.mode is not KeyMode.HSM:
            assert swept == ()
            return
        assert swept == (left.public.kid,)
        await rig.load(known)
        await rig.load(foreign, issuer=OTHER)
        await rig.extend(held.public.kid)
        assert await rig.signer.sign(held.public.kid, TYP, rig.payload())
        with pytest.raises(SignerRefused) as refused:
            await rig.load(left)
        assert refused.value.reason is Refusal.ABSENT
