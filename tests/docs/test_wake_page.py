"""What the page on waking nodes up shows is what works."""

import inspect
import re
import tomllib

import pytest
from scripts.reference import DOCS
from tests.adapters import wakeups
from tests.adapters.wakeups import heard, listening
from tests.bus_servers import ESCAPED, PASSWORD, STRANGER, NatsServer, RedisServer, running

from mintmark.adapters import line, nats_bus, redis_bus
from mintmark.adapters.registry import make_bus
from mintmark.server.option import KEYS
from mintmark.server.settings import read
from mintmark.testing.clock import FakeClock

PAGE = (DOCS / "how-to" / "wake-nodes-up.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_configuration_is_one():
    """Each block of TOML is read without a mistake, and its URL names a bus."""
    blocks = [tomllib.loads(text) for language, text in BLOCKS if language == "toml"]
    assert len(blocks) == 2
    for block in blocks:
        assert read({"bus": block["bus"].replace("…", "secret")}, {}).bus.startswith("redis")


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_rights_of_the_page_are_enough(kind):
    """A user with the rights that the page gives, and no others, hears and announces."""
    shown = next(text for _, text in BLOCKS if text.startswith("ACL" if kind == "redis" else "authorization"))
    shown = shown.replace("…", PASSWORD)

    class Redis(RedisServer):
        def command(self):
            made = super().command()
            rights = re.sub(r"^ACL SETUSER", "user", shown)
            (self.folder / "redis.conf").write_text(
                f"port {self.port}\nbind 127.0.0.1\nuser default on >{STRANGER} ~* &* +@all\n{rights}"
            )
            return made

    class Nats(NatsServer):
        def command(self):
            made = super().command()
            (self.folder / "nats.conf").write_text(f"listen: 127.0.0.1:{self.port}\n{shown}")
            return made

    clock = FakeClock()
    with running(Redis if kind == "redis" else Nats) as server:
        url = f"{kind}://mintmark:{ESCAPED}@127.0.0.1:{server.port}/auth"
        bus, peer = (make_bus(url, store="", clock=clock) for _ in range(2))
        async with wakeups.opened(bus), wakeups.opened(peer):
            await listening(peer)
            subscription = await listening(bus)
            await peer.announce()
            await heard(subscription, bus, peer)


def test_reasons_are_those_that_are_told():
    """Each reason of the table is a sentence of an adapter."""
    sources = "".join(map(inspect.getsource, (line, nats_bus, redis_bus)))
    reasons = [
        row for row in re.findall(r"^\| (.*?) \| .* \|$", PAGE, re.MULTILINE) if row.startswith(("n", "the "))
    ]
    reasons = [reason for reason in reasons if not reason.startswith("none")]
    assert len(reasons) == 5
    for reason in reasons:
        assert reason.removesuffix(" …") in sources


def test_every_bus_of_the_page_is_one_of_the_setting():
    """The first table names every scheme of the setting, TLS aside."""
    (form,) = [key.kind.label for key in KEYS if key.name == "bus"]
    for scheme in re.findall(r'"(\w+)://', form):
        assert f"{scheme}://" in PAGE
