"""Runs commands in one folder, in this process or as the program that users start."""

import asyncio
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mintmark.cli.app import run
from mintmark.core import keyring, sessions
from mintmark.core.key import Activation, KeyMode
from mintmark.core.keyring import Ring
from mintmark.core.sessions import Session, SessionStart
from mintmark.node.store import open_store
from mintmark.ports.store import Store
from mintmark.server.settings import Settings, load
from mintmark.system import SYSTEM_ENTROPY
from mintmark.units import ClientId, Kid, NodeId

T = TypeVar("T")

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document that it printed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of standard error."""
        return self.err.splitlines()


class CommandLine:
    """Runs commands in one folder, and looks at the store that they work on."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._capsys = capsys
        self._patch = patch

    def __call__(self, *argv: str, stdin: bytes = b"") -> Result:
        """Run ``mintmark`` with these arguments in this process; standard input is a pipe."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        status = run(argv)
        return Result(int(status), *self._capsys.readouterr())

    def ok(self, *argv: str, stdin: bytes = b"") -> Any:
        """The JSON answer of a command that succeeds."""
        result = self(*argv, "--json", stdin=stdin)
        assert result.status == 0, result.err
        return result.json

    @property
    def settings(self) -> Settings:
        """What the commands read."""
        return load(None, os.environ)

    def within(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What ``work`` gives, on the store of the folder."""

        async def opened() -> T:
            async with open_store(self.settings) as store:
                return await work(store)

        return asyncio.run(opened())

    def ring(self) -> Ring:
        """The key ring as it is."""

        async def read(store: Store) -> Ring:
            return (await store.keyring.read(self.settings.issuer)).ring

        return self.within(read)

    def add_key(self, kid: str, *, node: str = "node-of-a-test", active: bool = True) -> None:
        """A key of some node, active unless it is only prepared."""
        settings = self.settings

        async def add(store: Store) -> None:
            view = await store.keyring.read(settings.issuer)
            ring = keyring.prepare(
                view.ring,
                kid=Kid(kid),
                node=NodeId(node),
                alg="RS256",
                jwk=b'{"kty":"RSA"}',
                timing=settings.timing,
                now=view.now,
            )
            if active:
                ring = keyring.activate(
                    ring, Kid(kid), Activation.BOOTSTRAP, timing=settings.timing, now=view.now
                )
            assert await store.keyring.swap(view.ring.generation, ring)

        self.within(add)

    def beat(self, node: str, *, modes: frozenset[KeyMode] = frozenset({KeyMode.OWN})) -> None:
        """A node lives."""
        issuer = self.settings.issuer

        async def live(store: Store) -> None:
            await store.keyring.beat(issuer, NodeId(node), ring_generation=0, modes=modes)

        self.within(live)

    def change(self, kid: str, **changes: Any) -> None:
        """A key is another one, published until when it says."""
        issuer = self.settings.issuer

        async def swap(store: Store) -> None:
            before = (await store.keyring.read(issuer)).ring
            others = tuple(key for key in before.keys if key.kid != kid)
            changed = tuple(replace(key, **changes) if key.kid == kid else key for key in before.keys)
            # Without it first: a store lowers no `publish_until`.
            for number, keys in enumerate((others, changed), start=1):
                after = replace(before, generation=before.generation + number, keys=keys)
                assert await store.keyring.swap(after.generation - 1, after)

        self.within(swap)

    def add_session(self, name: str, client_id: str, *, kid: str = "k" * 43) -> tuple[Session, str]:
        """A live session of the user, begun through the client, and its refresh token."""
        settings = self.settings

        async def add(store: Store) -> tuple[Session, str]:
            user = await store.directory.user_named(settings.issuer, name)
            assert user is not None
            now = await store.now()
            begin = SessionStart(
                issuer=settings.issuer,
                sub=user.sub,
                client_id=ClientId(client_id),
                scope=("orders:read",),
                audience=("orders",),
                device="Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0 Safari/537.36",
                address="192.0.2.7",
            )
            session, token = sessions.start(
                begin,
                rid=SYSTEM_ENTROPY.token_bytes(16),
                seed=SYSTEM_ENTROPY.token_bytes(32),
                timing=settings.timing,
                now=now,
            )
            session = sessions.covering(session, exp=settings.timing.latest_exp(now), kid=Kid(kid))
            assert await store.sessions.start(session, user=user)
            return session, token.text()

        return self.within(add)
