"""Verifications per second, beside the bare signature check and PyJWT in the same run.

    python benchmarks/bench_verify.py [--tokens 300] [--rounds 25] [--json]

*raw* is `cryptography` checking a prepared signature over a prepared message, and nothing else: no parse,
no claims. *core* is the pure flow on text tokens with a live denylist of 10,000 sessions; *SDK* is
``Verifier.static`` on top of it; *PyJWT* is ``decode`` with a prepared key, audience and issuer. Every
contender judges the same distinct tokens of 12 claims in one thread, rounds interleaved in turning order;
medians of processor time are shown, so that neighbours disturb little. Ratios carry over to another
machine, times do not. What ``import mintmark`` adds to a bare interpreter (time, memory) and the size of
the package itself follow.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography
import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import mintmark
from mintmark import Verifier
from mintmark.core import base64url, jwk, jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.claims import Revocation
from mintmark.core.denylist import Denylist
from mintmark.core.policy import Policy
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.core.verification import Trust, Trusted, verify
from mintmark.units import Issuer, NumericDate

ISSUER = Issuer("https://auth.example.com")
AUDIENCE = "https://orders.example.com"
ALGORITHMS = (Algorithm.RS256, Algorithm.ES256, Algorithm.EDDSA)
REVOKED_SESSIONS = 10_000
TARGETS = {Algorithm.RS256: 0.80, Algorithm.ES256: 0.90, Algorithm.EDDSA: 0.90}

Judge = Callable[[Any], object]


def private_key(alg: Algorithm) -> jws.PrivateKeyObject:
    """A fresh key for ``alg``."""
    if alg is Algorithm.RS256:
        return rsa.generate_private_key(65537, 2048)
    if alg is Algorithm.ES256:
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def make_token(alg: Algorithm, key: jws.PrivateKeyObject, kid: str, now: int) -> str:
    """A token of 12 claims that no other is equal to."""
    claims = {
        "iss": ISSUER,
        "sub": "usr_" + base64url.encode(os.urandom(16)),
        "aud": AUDIENCE,
        "client_id": "web-frontend",
        "exp": now + 7200,
        "iat": now - 5,
        "jti": base64url.encode(os.urandom(16)),
        "scope": "openid orders:read orders:write",
        "rid": base64url.encode(os.urandom(16)),
        "auth_time": now - 3600,
        "amr": ["pwd", "otp"],
        "plan": "pro",
    }
    payload = json.dumps(claims, separators=(",", ":")).encode()
    message = jws.signing_input({"alg": alg.value, "kid": kid, "typ": "at+jwt"}, payload)
    return jws.compact(message, jws.sign(alg, key, message))


def raw_judge(alg: Algorithm, key: Any) -> Judge:
    """The bare check of one prepared (signature, message)."""
    sha256 = hashes.SHA256()
    if alg is Algorithm.RS256:
        scheme = padding.PKCS1v15()
        return lambda pair: key.verify(pair[0], pair[1], scheme, sha256)
    if alg is Algorithm.ES256:
        ecdsa = ec.ECDSA(sha256)
        return lambda pair: key.verify(pair[0], pair[1], ecdsa)
    return lambda pair: key.verify(pair[0], pair[1])


def prepared(alg: Algorithm, raw: str) -> tuple[bytes, bytes]:
    """Signature and message as the library wants them: DER for ECDSA."""
    parts = jws.parse(raw)
    signature = parts.signature
    if alg is Algorithm.ES256:
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        signature = encode_dss_signature(r, s)
    return signature, parts.signing_input


def denylist(now: int) -> Denylist:
    """A day's logouts, none of which concerns these tokens."""
    listed = Denylist()
    for number in range(REVOKED_SESSIONS):
        rid = base64url.encode(os.urandom(16))
        expires_at = NumericDate(now + number % 1200)
        listed.apply(RevocationEvent(kind=Kind.RID, value=rid, expires_at=expires_at))
    return listed


def contenders(alg: Algorithm, tokens: int) -> dict[str, tuple[Judge, list[Any]]]:
    """What judges, and what it judges, by name."""
    now = int(time.time())
    private = private_key(alg)
    public = jwk.public_key(private.public_key(), alg)
    raws = [make_token(alg, private, public.kid, now) for _ in range(tokens)]
    trust = Trust(
        policy=Policy(issuer=ISSUER, audiences=frozenset({AUDIENCE})),
        keys={public.kid: public},
        denylist=denylist(now),
        revocation=Revocation.CHECKED,
    )
    trusted, at = Trusted([trust]), NumericDate(now)
    sdk = Verifier.static({"keys": [dict(public.jwk)]}, issuer=ISSUER, audience=AUDIENCE)
    algorithms = [alg.value]
    return {
        "raw": (raw_judge(alg, public.key), [prepared(alg, raw) for raw in raws]),
        "core": (lambda raw: verify(raw, trusted, at), raws),
        "SDK": (sdk.verify, raws),
        "PyJWT": (
            lambda raw: jwt.decode(raw, public.key, algorithms=algorithms, audience=AUDIENCE, issuer=ISSUER),
            raws,
        ),
    }


def measure(alg: Algorithm, tokens: int, rounds: int) -> dict[str, float]:
    """Median microseconds of one judgement, by contender."""
    field = contenders(alg, tokens)
    times: dict[str, list[float]] = {name: [] for name in field}
    names = list(field)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            judge, inputs = field[name]
            began = time.thread_time()
            for each in inputs:
                judge(each)
            spent = time.thread_time() - began
            if turn:  # The first round warms caches.
                times[name].append(spent / len(inputs) * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


CHILD = """
import time
began = time.process_time()
{statement}
spent = time.process_time() - began
with open("/proc/self/status") as status:
    memory = next(line.split()[1] for line in status if line.startswith("VmRSS"))
print(spent * 1e3, memory)
"""


def start_cost(rounds: int) -> dict[str, float]:
    """Median milliseconds and KiB that ``import mintmark`` adds to an interpreter that imports nothing."""
    seen: dict[str, list[tuple[float, float]]] = {"pass": [], "import mintmark": []}
    for turn in range(rounds + 1):
        for statement, values in seen.items():
            code = CHILD.format(statement=statement)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            spent, memory = map(float, done.stdout.split())
            if turn:
                values.append((spent, memory))
    bare, ours = ([statistics.median(column) for column in zip(*v, strict=True)] for v in seen.values())
    return {"import_ms": ours[0], "bare_kib": bare[1], "added_kib": ours[1] - bare[1]}


def package_size() -> dict[str, int]:
    """Bytes and files of the package as it is installed, without compiled caches."""
    files = [
        path
        for path in Path(mintmark.__file__).parent.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return {"bytes": sum(path.stat().st_size for path in files), "files": len(files)}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=300, help="distinct tokens a round")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    verified = {alg.value: measure(alg, options.tokens, options.rounds) for alg in ALGORITHMS}
    start, size = start_cost(max(options.rounds // 2, 3)), package_size()
    if options.json:
        machine = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "cryptography": cryptography.__version__,
            "pyjwt": jwt.__version__,
        }
        ratios = {alg: {name: us["raw"] / t for name, t in us.items()} for alg, us in verified.items()}
        report = {
            "machine": machine,
            "microseconds": verified,
            "of_raw": ratios,
            "start": start,
            "package": size,
        }
        print(json.dumps(report, indent=2))
        return
    print(f"{'':15}" + "".join(f"{name:>16}" for name in ("raw", "core", "SDK", "PyJWT")))
    for alg in ALGORITHMS:
        times = verified[alg.value]
        shares = "".join(f"{times['raw'] / t:16.1%}" for t in times.values())
        print(f"{alg.value:8}{'us':7}" + "".join(f"{t:16.2f}" for t in times.values()))
        print(f"{'':8}{'of raw':7}{shares}   target for core: {TARGETS[alg]:.0%}")
    added = start["added_kib"] / 1024
    print(f"import mintmark: {start['import_ms']:.0f} ms, {added:.1f} MiB beyond a bare interpreter")
    print(f"package: {size['bytes'] / 1024:.0f} KiB in {size['files']} files")


if __name__ == "__main__":
    main()
