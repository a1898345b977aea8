"""What a command is given: the settings it works with, what it prints on, and the store when it asks.

Heavy parts (the database, password hashing) are imported only by commands that open them.
"""

import contextlib
import os
import pwd
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from mintmark.cli.output import Output
from mintmark.cli.status import Misused
from mintmark.errors import NotFound
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.passwords import PasswordHasher
from mintmark.ports.store import Store
from mintmark.server.accounts import Accounts
from mintmark.server.audit import Audit
from mintmark.server.setting import shown
from mintmark.server.settings import Settings, load
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store, and the use cases on it."""

    settings: Settings
    store: Store
    accounts: Accounts
    audit: Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One run of a command. ``config`` is the option ``--config``, ``issuer`` is ``--issuer``."""

    output: Output
    config: Path | None = None
    issuer: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = SYSTEM_CLOCK
    entropy: Entropy = SYSTEM_ENTROPY

    def settings(self) -> Settings:
        """What was configured, for the one issuer that the command is about.

        Raises ConfigurationErrors; Misused where it does not say which one of several, or names another.
        """
        configured = load(self.config, self.environ)
        listed = ", ".join(one.issuer for one in configured.issuers)
        if self.issuer is None:
            if len(configured.issuers) > 1:
                raise Misused(f"--issuer is missing: this command is about one issuer of {listed}")
            return configured
        try:
            return configured.of(self.issuer)
        except LookupError:
            raise Misused(f'--issuer: "{shown(self.issuer)}" is none of those configured: {listed}') from None

    def of_node(self) -> Settings:
        """What was configured, for a command about the whole node; raises ConfigurationErrors, Misused."""
        if self.issuer is not None:
            raise Misused("--issuer: this command is about all issuers of the node")
        return load(self.config, self.environ)

    @contextlib.asynccontextmanager
    async def open(self, *, create: bool = False) -> AsyncIterator[Opened]:
        """The store and the use cases on it, until the block ends.

        Raises ConfigurationErrors, Misused, Unavailable; and, unless ``create``, NotFound for a database file
        that does not exist: to list or to end something in a new one is a mistake about the folder.
        """
        async with self._open((self.settings(),), create=create) as (one,):
            yield one

    @contextlib.asynccontextmanager
    async def open_each(self) -> AsyncIterator[tuple[Opened, ...]]:
        """The same for every issuer of the node, on one store that is there already."""
        settings = self.of_node()
        each = tuple(settings.of(one.issuer) for one in settings.issuers)
        async with self._open(each, create=False) as opened:
            yield opened

    @contextlib.asynccontextmanager
    async def _open(self, each: tuple[Settings, ...], *, create: bool) -> AsyncIterator[tuple[Opened, ...]]:
        settings = each[0]
        path = sqlite_file(settings)
        absent = path is not None and _is_absent(path)
        if absent and not create:
            raise NotFound(
                f"there is no database {path}: give the right --config, or begin with `mintmark init`"
            )
        _log_changes(settings)
        from mintmark.node.store import (  # noqa: PLC0415 - it takes its time
            open_bus,
            open_passwords,
            open_store,
        )

        actor = _actor()
        async with (
            open_store(settings, clock=self.clock, entropy=self.entropy) as store,
            open_passwords(settings) as passwords,
            open_bus(settings, clock=self.clock) as bus,
        ):
            if absent:
                self.output.note(f"mintmark: a new database, {path}")
            yield tuple(
                self._opened(one, store, passwords, Audit(issuer=one.issuer, actor=actor)) for one in each
            )
            # A session that was ended here is refused as soon as one that was ended over HTTP.
            await bus.announce()

    def _opened(self, settings: Settings, store: Store, passwords: PasswordHasher, audit: Audit) -> Opened:
        accounts = Accounts(
            settings.issuer,
            store=store,
            passwords=passwords,
            entropy=self.entropy,
            timing=settings.timing,
            audit=audit,
        )
        return Opened(settings, store, accounts, audit)


Given = Annotated[Invocation, Parameter(parse=False)]
"""The parameter through which a command gets its :class:`Invocation`."""


def sqlite_file(settings: Settings) -> Path | None:
    """The file that the store is, or None where it is a server."""
    name = settings.store.removeprefix(_SQLITE)
    return Path(name).absolute() if name != settings.store else None


def _is_absent(path: Path) -> bool:
    """Whether there is no file; what cannot even be looked for is the adapter's to report."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _log_changes(settings: Settings) -> None:
    """Have every change logged on standard error, with who made it (ASVS 16.2.1).

    A person on a terminal reads the answer of the command instead, which says the same.
    """
    from mintmark.node import logs  # noqa: PLC0415 - structlog is slow to load

    logs.configure(replace(settings, log_level="error") if sys.stderr.isatty() else settings)


def _actor() -> str:
    """Who runs the command: the name of the process's user, which no variable can change."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
