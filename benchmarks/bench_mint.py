"""Mints per second through the signer process, beside the bare signature and PyJWT in the same run.

    python benchmarks/bench_mint.py [--seconds 0.3] [--rounds 7] [--softhsm] [--json]

*raw* is `cryptography` signing the finished signing input in this process, one thread; *PyJWT* its
``encode`` with a prepared key, one thread; *signer* is ``plan`` (the claims) and ``sign`` (the hop, the
checks, the signature) with 1 or 64 calls in flight. The signer may use every processor, so with 64 in
flight its ratio may pass 1. With ``--softhsm`` *hsm* is the same through a token of SoftHSM's, which shows
what PKCS#11 and its sessions cost and nothing of a device. Rounds interleave all of them and medians are
shown: only ratios carry over to another machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from mintmark.core import jws, minting
from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.core.minting import ACCESS_TOKEN_TYP, RANDOM_BYTES, TokenRequest
from mintmark.signer.client import SignerClient
from mintmark.signer.custody import Custody, HsmCustody
from mintmark.signer.launch import start_signer
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import ClientId, Issuer, Kid, NumericDate, Rid, Seconds, Sub

ISSUER = Issuer("https://auth.example.com")
REQUEST = TokenRequest(
    iss=ISSUER,
    sub=Sub("usr_AAECAwQFBgcICQoLDA0ODw"),
    client_id=ClientId("web"),
    aud=("https://orders.example.com",),
    scope=("openid", "orders:read", "orders:write"),
    rid=Rid("AAECAwQFBgcICQoLDA0ODw"),
    auth_time=NumericDate(1_800_000_000),
    amr=("pwd",),
    extra={"plan": "pro", "tenant": "acme"},
)
ALGORITHMS = (Algorithm.RS256, Algorithm.ES256, Algorithm.EDDSA)
IN_FLIGHT = (1, 64)
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "1234"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to make a token; ``run`` makes as many as it can in so many seconds."""

    alg: Algorithm
    name: str
    run: Callable[[float], Awaitable[float]]


def payload() -> bytes:
    """A fresh token's claims."""
    return minting.plan(
        REQUEST, now=SYSTEM_CLOCK.now(), ttl=Seconds(900), random=SYSTEM_ENTROPY.token_bytes(RANDOM_BYTES)
    ).payload


def in_this_thread(make: Callable[[], object]) -> Callable[[float], Awaitable[float]]:
    """A contender's ``run`` that calls ``make`` over and over."""

    async def run(seconds: float) -> float:
        made, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            make()
            made += 1
        return made / spent

    return run


def through(worker: SignerClient, kid: Kid, in_flight: int) -> Callable[[float], Awaitable[float]]:
    """A contender's ``run`` that keeps ``in_flight`` calls under way."""

    async def run(seconds: float) -> float:
        made, start = 0, time.perf_counter()

        async def mint() -> None:
            nonlocal made
            while time.perf_counter() - start < seconds:
                await worker.sign(kid, ACCESS_TOKEN_TYP, payload())
                made += 1

        await asyncio.gather(*(mint() for _ in range(in_flight)))
        return made / (time.perf_counter() - start)

    return run


def peers(alg: Algorithm) -> list[Contender]:
    """The bare signature and PyJWT."""
    claims = payload()
    header = {"alg": alg.value, "kid": "k" * 43, "typ": ACCESS_TOKEN_TYP}
    message = jws.signing_input(header, claims)
    decoded = json.loads(claims)
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    sign: Callable[[], object]
    sha256, pkcs1, ecdsa = hashes.SHA256(), padding.PKCS1v15(), ec.ECDSA(hashes.SHA256())
    match alg:
        case Algorithm.ES256:
            key = p256 = ec.generate_private_key(ec.SECP256R1())
            sign = lambda: p256.sign(message, ecdsa)  # noqa: E731
        case Algorithm.EDDSA:
            key = ed = ed25519.Ed25519PrivateKey.generate()
            sign = lambda: ed.sign(message)  # noqa: E731
        case _:
            key = big = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            sign = lambda: big.sign(message, pkcs1, sha256)  # noqa: E731
    extra = {"kid": "k" * 43, "typ": ACCESS_TOKEN_TYP}
    return [
        Contender(alg, "raw", in_this_thread(sign)),
        Contender(alg, "PyJWT", in_this_thread(lambda: jwt.encode(decoded, key, alg.value, headers=extra))),
    ]


@contextlib.contextmanager
def soft_hsm() -> Iterator[Custody]:
    """A token of SoftHSM's, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "softhsm2.conf")
        configuration.write_text(f"directories.tokendir = {folder}\nlog.level = ERROR\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", PIN],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            check=True,
            capture_output=True,
        )
        reading, writing = os.pipe()
        os.write(writing, PIN.encode())
        os.close(writing)
        try:
            yield Custody(
                hsm=HsmCustody(
                    module=SOFTHSM,
                    token="bench",
                    pin=reading,
                    environment=(("SOFTHSM2_CONF", str(configuration)),),
                    allow=(folder,),
                )
            )
        finally:
            os.close(reading)


@contextlib.asynccontextmanager
async def signing(
    mode: KeyMode, custody: Custody
) -> AsyncIterator[Callable[[Algorithm], Awaitable[list[Contender]]]]:
    """What gives the contenders of an algorithm, for as long as their signer runs."""
    signer = await start_signer(clock=SYSTEM_CLOCK, custody=custody)
    worker = SignerClient(await signer.control.attach(), clock=SYSTEM_CLOCK)
    name = "signer" if mode is KeyMode.OWN else mode.value

    async def contenders(alg: Algorithm) -> list[Contender]:
        typs = frozenset({ACCESS_TOKEN_TYP})
        kid = (await signer.control.generate(issuer=ISSUER, alg=alg, typs=typs, mode=mode)).public.kid
        now = SYSTEM_CLOCK.now()
        await signer.control.extend(
            kid, max_exp=NumericDate(now + 10_000), lease_until=NumericDate(now + 9_000)
        )
        return [
            Contender(alg, f"{name}, {number} in flight", through(worker, kid, number))
            for number in IN_FLIGHT
        ]

    try:
        yield contenders
    finally:
        worker.close()
        await signer.stop()


async def measure(seconds: float, rounds: int, *, hsm: bool) -> dict[str, dict[str, float]]:
    """Tokens per second by algorithm and contender: medians of interleaved rounds."""
    async with contextlib.AsyncExitStack() as stack:
        own = await stack.enter_async_context(signing(KeyMode.OWN, Custody()))
        token = None
        if hsm:
            custody = stack.enter_context(soft_hsm())
            token = await stack.enter_async_context(signing(KeyMode.HSM, custody))
        contenders: list[Contender] = []
        for alg in ALGORITHMS:
            contenders += [*peers(alg), *await own(alg)]
            if token is not None and alg is not Algorithm.EDDSA:
                contenders += await token(alg)
        rates: dict[tuple[Algorithm, str], list[float]] = {(c.alg, c.name): [] for c in contenders}
        for _ in range(rounds):
            for contender in contenders:
                rates[contender.alg, contender.name].append(await contender.run(seconds))
    medians: dict[str, dict[str, float]] = {alg.value: {} for alg in ALGORITHMS}
    for (alg, name), measured in rates.items():
        medians[alg.value][name] = statistics.median(measured)
    return medians


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--softhsm", action="store_true", help="measure a token of SoftHSM's as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    medians = asyncio.run(measure(options.seconds, options.rounds, hsm=options.softhsm))
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "mint", "unit": "tokens/s", **machine, "medians": medians}, indent=2))
        return
    print(f"{'':26}{'tokens/s':>10}{'of raw':>9}{'of PyJWT':>10}")
    for alg, by_name in medians.items():
        for name, rate in by_name.items():
            ratios = f"{rate / by_name['raw']:>9.2f}{rate / by_name['PyJWT']:>10.2f}"
            print(f"{alg:7}{name:19}{rate:>10,.0f}{ratios}")


if __name__ == "__main__":
    main()
