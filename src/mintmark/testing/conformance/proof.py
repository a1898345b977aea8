"""The clauses of :mod:`mintmark.ports.proof`, one test each; every reader runs all of them."""

import json

import pytest

from mintmark.ports.proof import ProofFailed, PublicReader
from mintmark.system import SYSTEM_CLOCK
from mintmark.testing.origin import Fault, Origin, Reply, Request

PATH = "/.well-known/jwks.json"


class ProofRig:
    """A reader under test, and the server that it reads from."""

    def __init__(self, reader: PublicReader) -> None:
        self.reader = reader
        self.kids: list[str] = []
        """What the server answers."""
        self.origin = Origin(routes={PATH: "jwks"}, answer=self._answer, clock=SYSTEM_CLOCK)
        self.origin.start()

    @property
    def url(self) -> str:
        """Where the key set is."""
        return f"http://127.0.0.1:{self.origin.port}{PATH}"

    def _answer(self, _name: str, _request: Request) -> Reply:
        keys = [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": kid} for kid in self.kids]
        body = json.dumps({"keys": keys}).encode()
        return Reply(headers={"Content-Type": "application/jwk-set+json"}, body=body)


class ProofConformance:
    """PROOF-1 and PROOF-2."""

    async def test_reader_finds_what_is_served_now(self, rig: ProofRig) -> None:
        """PROOF-1, I2: each call asks anew; a key that came is found and one that left is not."""
        for kids in ([], ["a"], ["a", "b"], ["b"]):
            rig.kids = kids
            assert await rig.reader.kids(rig.url) == frozenset(kids)
        assert rig.origin.count("jwks") == 4

    @pytest.mark.parametrize(
        "fault",
        [
            Fault.REFUSE,
            Fault.ERROR,
            Fault.NOT_FOUND,
            Fault.TRUNCATE,
            Fault.EMPTY,
            Fault.GARBAGE,
            Fault.HTML,
            Fault.REDIRECT,
            Fault.HUGE,
            Fault.BOMB,
            pytest.param(Fault.DRIP, marks=pytest.mark.slow),
        ],
        ids=lambda fault: fault.name,
    )
    async def test_answer_that_is_no_key_set_proves_nothing(self, rig: ProofRig, fault: Fault) -> None:
        """PROOF-2: whatever the server does instead is ProofFailed, and the next good answer is read."""
        rig.kids = ["a"]
        rig.origin.fail(fault)
        with pytest.raises(ProofFailed) as raised:
            await rig.reader.kids(rig.url)
        assert rig.url in str(raised.value)
        rig.origin.recover()
        assert await rig.reader.kids(rig.url) == {"a"}

    async def test_address_without_a_server_proves_nothing(self, rig: ProofRig) -> None:
        """PROOF-2: nobody there, and what is no URL, are ProofFailed too."""
        rig.origin.close()
        for url in (rig.url, "http://", "ftp://127.0.0.1/x", "http://[::1", "not a url"):
            with pytest.raises(ProofFailed):
                await rig.reader.kids(url)
