"""The clauses of :mod:`mintmark.ports.signer`, one test each; every signer runs all of them.

A test class for an implementation inherits :class:`SignerConformance` and gives it a fixture ``rig``.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import pytest

from mintmark.core import jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import PublicKey
from mintmark.core.key import KeyMode
from mintmark.errors import SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.signer import MadeKey, Refusal, Signer, SignerControl, SignerRefused
from mintmark.units import Issuer, Kid, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com")
OTHER = Issuer("https://auth.example.com/other")
TYP = "at+jwt"
LEASE = 120
TTL = 900


@dataclass(frozen=True, slots=True)
class Rig:
    """A signer under test, with the clock that it goes by."""

    control: SignerControl
    signer: Signer
    clock: Clock
    connect: Callable[[socket.socket], Signer]
    """A worker's signer on a channel that ``control.attach`` gave."""
    end: Callable[[], Awaitable[None]]
    """Make the signer go away, as if it had crashed."""
    mode: KeyMode = KeyMode.OWN
    """What keys the suite makes."""
    twin: SignerControl | None = None
    """Another signer with the same custody, as another node has it; None in mode ``own``, whose
    keys are one signer's alone."""
    algorithms: frozenset[Algorithm] = frozenset(Algorithm)
    """What keys of that mode can sign with."""

    async def make(
        self,
        alg: Algorithm = Algorithm.ES256,
        *,
        issuer: Issuer = ISSUER,
        typs: frozenset[str] = frozenset({TYP}),
    ) -> MadeKey:
        """A new key of the mode under test."""
        return await self.control.generate(issuer=issuer, alg=alg, typs=typs, mode=self.mode)

    async def generate(self, alg: Algorithm = Algorithm.ES256) -> PublicKey:
        """A new key of :data:`ISSUER` for access tokens."""
        return (await self.make(alg)).public

    async def has(self, alg: Algorithm) -> bool:
        """Whether keys of the mode under test sign with ``alg``; where not, none is made either."""
        if alg in self.algorithms:
            return True
        with pytest.raises(SignerRefused) as refused:
            await self.make(alg)
        assert refused.value.reason is Refusal.NO_CUSTODY
        return False

    async def load(
        self,
        made: MadeKey,
        *,
        into: SignerControl | None = None,
        kid: Kid | None = None,
        issuer: Issuer = ISSUER,
        alg: Algorithm | None = None,
        sealed: bytes | None = None,
    ) -> None:
        """Have ``into``, or the signer under test, load ``made``; what is given replaces what is true."""
        await (into or self.control).load(
            kid=kid or made.public.kid,
            issuer=issuer,
            alg=alg or made.public.alg,
            typs=frozenset({TYP}),
            mode=self.mode,
            sealed=made.sealed if sealed is None else sealed,
        )

    async def extend(self, kid: Kid) -> None:
        """Give ``kid`` a lease that has just begun."""
        now = self.clock.now()
        await self.control.extend(kid, max_exp=self.max_exp(now), lease_until=NumericDate(now + LEASE))

    async def ready_key(self, alg: Algorithm = Algorithm.ES256) -> PublicKey:
        """A new key with a lease that has just begun."""
        key = await self.generate(alg)
        await self.extend(key.kid)
        return key

    def max_exp(self, now: NumericDate | None = None) -> NumericDate:
        """The latest ``exp`` under a lease that begins at ``now``."""
        return NumericDate((self.clock.now() if now is None else now) + LEASE + TTL)

    def payload(self, **changed: object) -> bytes:
        """Claims that a fresh key may sign, with some changed; a claim changed to UNSET is left out."""
        claims = {"iss": ISSUER, "sub": "usr_1", "exp": self.clock.now() + TTL, **changed}
        return msgspec.json.encode(
            {name: value for name, value in claims.items() if value is not msgspec.UNSET}
        )

    async def refusal(self, kid: Kid, typ: str, payload: bytes) -> Refusal:
        """Why the signer refuses to sign this; fails the test when it does not."""
        with pytest.raises(SignerRefused) as refused:
            await self.signer.sign(kid, typ, payload)
        return refused.value.reason


class SignerConformance:
    """One test for each clause SIGNER-1 to SIGNER-20."""

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
