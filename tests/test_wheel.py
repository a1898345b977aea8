"""The built wheel is what users get: complete, light, and able to verify a token without extras."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mintmark.core.jwk import parse_jwk

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow

VERIFY = """
import json, sys
from mintmark import InvalidToken, Verifier
given = json.load(sys.stdin)
verifier = Verifier.static(given["jwks"], issuer=given["issuer"], audience="orders")
token = verifier.verify(given["good"])
try:
    verifier.verify(given["bad"])
except InvalidToken as refused:
    print(json.dumps({"sub": token.sub, "code": refused.code, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def uv() -> str:
    """The uv that made this environment: the one on PATH, or our own."""
    found = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv" / "bin")
    return found or pytest.fail("no uv: run scripts/setup")


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [uv, "build", "--quiet", "--wheel", "--out-dir", folder], cwd=ROOT, check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def interpreter(uv: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel and its base dependencies, in the versions of the lock."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    asked = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}
    asked.pop("VIRTUAL_ENV", None)
    commands: list[list[str | Path]] = [
        [uv, "venv", "--quiet", "--python", sys.executable, environment],
        [uv, "sync", "--quiet", "--frozen", "--no-default-groups", "--no-install-project"],
        [uv, "pip", "install", "--quiet", "--python", environment, "--no-deps", wheel],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, env=asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return environment / "bin" / "python"


def test_wheel_holds_the_package_and_nothing_else(wheel):
    """Types and licence are in it; tests, settings and databases are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {"mintmark/py.typed", "mintmark/__init__.py"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {top.partition("-")[0] for top in tops} == {"mintmark"}
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == source
    assert not {name for name in names if name.endswith((".db", ".toml", ".pyc", ".log"))}


def test_base_install_verifies_a_token(interpreter, tmp_path):
    """`pip install mintmark`, with no extra, accepts a good token, refuses another, and loads no server."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"use": "sig", "alg": "ES256"}
    public["kid"] = parse_jwk(public).kid
    now = int(time.time())
    claims = {
        "iss": "https://auth.example.com", "aud": "orders", "sub": "usr_1", "client_id": "shop", "jti": "j1",
        "iat": now - 5, "exp": now + 300,
    }  # fmt: skip
    headers = {"typ": "at+jwt", "kid": public["kid"]}
    given = {
        "issuer": claims["iss"],
        "jwks": {"keys": [public]},
        "good": jwt.encode(claims, key, "ES256", headers),
        "bad": jwt.encode(claims | {"aud": "billing"}, key, "ES256", headers),
    }
    command = [interpreter, "-I", "-c", VERIFY]
    done = subprocess.run(
        command, input=json.dumps(given), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sub"] == "usr_1"
    assert said["code"] == "wrong_audience"
    assert not {"sqlalchemy", "starlette", "uvicorn", "fastapi", "httpx2"} & set(said["modules"])


def test_command_without_the_server_says_what_to_install(interpreter, tmp_path):
    """`mintmark` without its extra ends with one line that names it, and no traceback."""
    done = subprocess.run(
        [interpreter.parent / "mintmark", "serve"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "mintmark[server]" in done.stderr
    assert "Traceback" not in done.stderr
