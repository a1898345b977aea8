"""A real node whose key is in a token: the token goes away and comes back, and nobody is logged out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.cluster.inside import Inside, fate_of, opened
from tests.cluster.running import RunningNode, running_node, until
from tests.softhsm import SoftHsm, soft_hsm

from mintmark import Verifier
from mintmark.core import jws
from mintmark.core.events import EventName
from mintmark.core.key import KeyMode, KeyState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def settings_for(hsm: SoftHsm, folder: Path) -> dict[str, Any]:
    """What a node needs to keep its key in ``hsm``."""
    pin = folder / "hsm.pin"
    pin.write_text(hsm.pin)
    return {
        "key_mode": "hsm",
        "algorithm": "RS256",
        "hsm_module": hsm.module,
        "hsm_token": hsm.label,
        "hsm_pin": f"file:{pin}",
        "hsm_environment": [f"{name}={value}" for name, value in hsm.environment.items()],
        "hsm_allow": [str(hsm.configuration), str(hsm.tokens)],
        # Tokens outlive the test: what a verifier refuses was denied.
        "access_ttl": "300s",
        "rotate_every": "4h",
    }


@pytest.fixture
def hsm(tmp_path_factory) -> SoftHsm:
    return soft_hsm(tmp_path_factory.mktemp("hsm"))


@pytest.fixture
def node(hsm, tmp_path) -> Iterator[RunningNode]:
    with running_node(tmp_path, settings=settings_for(hsm, tmp_path)) as made:
        yield made


@pytest.fixture
def inside(node) -> Iterator[Inside]:
    with opened(node.config) as made:
        yield made


def published(node: RunningNode) -> list[str]:
    answer = node.http.get("/.well-known/jwks.json")
    assert answer.status_code == 200, answer.text
    return [key["kid"] for key in answer.json()["keys"]]


def later(answer: httpx2.Response) -> bool:
    """Whether the answer is «not now», and says when."""
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def test_token_that_goes_away_and_comes_back_logs_nobody_out(node, hsm, inside):
    """The node mints with the key in the token. While the token is away, log-in and refresh are «later»,
    an alarm says why, and all else goes on, past the lease too. When it is back the same processes mint with
    the same key, and everybody's session is there."""
    with Verifier(node.issuer, audience="orders") as verifier:
        until(verifier.ready, "the verifier has keys and revocations")
        staying, leaving = node.log_in(), node.log_in()
        verifier.verify(staying["access_token"])
        view = inside.ring()
        (key,) = view.ring.keys
        assert (key.mode, key.state, key.sealed) == (KeyMode.HSM, KeyState.ACTIVE, None)
        processes = node.pids()

        hsm.take_away()
        until(lambda: later(node.log_in_with(node.http)), "log-ins wait", log=node.tail)
        assert later(node.refresh(staying["refresh_token"]))
        until(lambda: node.events(EventName.HSM_LOST), "the alarm sounds", log=node.tail)
        until(lambda: node.http.get("/readyz").status_code == 503, "it is not ready", log=node.tail)
        assert "signer_away" in node.http.get("/readyz").json()["reasons"]
        gone_at = inside.ring().ring.keys[0].lease_until
        until(lambda: inside.ring().now > gone_at, "the lease of that moment has ended")
        assert later(node.log_in_with(node.http))
        assert published(node) == [key.kid]
        assert fate_of(verifier, staying["access_token"]) == ""
        node.asked(lambda: node.log_out(leaving["access_token"]), 204)
        until(lambda: fate_of(verifier, leaving["access_token"]), "the log-out is heard of", log=node.tail)
        assert node.events(EventName.HSM_RESTORED) == []

        hsm.bring_back()
        renewed = node.asked(lambda: node.refresh(staying["refresh_token"]), 200).json()
        assert jws.parse(renewed["access_token"]).header.kid == key.kid
        assert fate_of(verifier, renewed["access_token"]) == ""
        assert node.log_in()
        until(lambda: node.events(EventName.HSM_RESTORED), "the alarm ends", log=node.tail)
        node.until_ready()
    assert node.pids() == processes
    assert published(node) == [key.kid]
    assert len(node.events(EventName.HSM_LOST)) == 1
    assert len(node.events(EventName.KEY_ACTIVATED)) == 1
