"""``mintmark init``: the first configuration, and the database behind it."""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from mintmark.cli.invocation import Given, Invocation, sqlite_file
from mintmark.cli.status import Failed
from mintmark.cli.stdin import is_person
from mintmark.errors import ConfigurationError, ConfigurationErrors, Conflict, MintmarkError
from mintmark.server.option import KEYS, PREFIX
from mintmark.server.setting import is_loopback, shown
from mintmark.server.settings import DEFAULT_FILE, Settings, read, written

_DEFAULTS: Final = {key.name: key.default for key in KEYS}
_HEAD: Final = f"""\
# Settings of Mintmark. Whatever is not set has its default, which is right for one node on SQLite.
# A variable of the environment overrides its setting: {PREFIX}ACCESS_TTL is access_ttl.
"""


def init(
    *,
    store: Annotated[
        str | None,
        Parameter(help=f"The database; `{_DEFAULTS['store']}` beside the configuration where none is given."),
    ] = None,
    given: Given,
) -> None:
    """Write a commented `mintmark.toml` and create the database.

    The file is the one that `--config` names. One that exists is never overwritten.

    `--issuer` is the issuer's URL: `iss` of every token, and what verifiers are given. On a terminal it is
    asked for; elsewhere it is one for trying out on this machine. Further issuers are tables of `[[issuers]]`
    that are written into the file by hand.
    """
    path = given.config or Path(given.environ.get("MINTMARK_CONFIG") or DEFAULT_FILE)
    # Asked for before anything else, so that nobody answers questions for nothing.
    if os.path.lexists(path):
        raise Conflict(f"{shown(str(path), limit=4096)} exists already; it is left as it is")
    chosen = {"issuer": given.issuer or _asked(), "store": store or str(_DEFAULTS["store"])}
    settings = _checked(chosen)
    _create(path, _text(settings))
    try:
        # A variable may name another issuer, and wins as it will from now on.
        used = asyncio.run(_begin(replace(given, issuer=None)))
    except MintmarkError:
        # Without its database it is not begun: the next attempt must not find a file in its way.
        path.unlink(missing_ok=True)
        raise
    _answer(given, path, used)


async def _begin(given: Invocation) -> Settings:
    """Create the database; the settings as they are read from now on, variables included."""
    async with given.open(create=True) as opened:
        return opened.settings


def _asked() -> str:
    default = str(_DEFAULTS["issuer"])
    if not is_person():
        return default
    # On standard error: what is asked is no answer of the command.
    sys.stderr.write(f"Issuer URL [{default}]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() or default


def _checked(chosen: dict[str, str]) -> Settings:
    """The settings that the file will give; raises ConfigurationErrors that name the options."""
    try:
        return read(chosen, {})
    except ConfigurationErrors as error:
        raise ConfigurationErrors(
            tuple(ConfigurationError(f"--{one.key}", one.reason) for one in error.mistakes)
        ) from None


def _create(path: Path, text: str) -> None:
    """Write a new file, readable by its owner alone: a later store's URL may hold a password."""
    name = shown(str(path), limit=4096)
    try:
        with open(path, "x", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{name} exists already; it is left as it is") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise Failed(f"{name} cannot be written: {reason or type(error).__name__}") from None


def _text(settings: Settings) -> str:
    given = {"issuer": settings.issuer, "store": settings.store}
    listen = _listen(settings.issuer)
    if listen is not None and listen != _DEFAULTS["listen"]:
        given["listen"] = listen
    parts = [_HEAD]
    for key in KEYS:
        # json.dumps writes what a basic string of TOML is, too.
        value = json.dumps(given[key.name], ensure_ascii=False) if key.name in given else written(key.default)
        parts.append(f"# {key.meaning}\n{'' if key.name in given else '# '}{key.name} = {value}\n")
    return "\n".join(parts)


def _listen(issuer: str) -> str | None:
    """Where a node must listen for verifiers of this machine to find it; None for an issuer elsewhere."""
    parts = urlsplit(issuer)
    host = parts.hostname or ""
    if parts.scheme != "http" or not is_loopback(host):
        return None
    address = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    return f"{address}:{parts.port or 80}"


def _answer(given: Invocation, path: Path, used: Settings) -> None:
    file = sqlite_file(used)
    where = str(file.absolute()) if file is not None else None
    option = "" if path == DEFAULT_FILE else f"--config {path} "
    given.output.answer(
        {"config": str(path.absolute()), "issuer": used.issuer, "database": where},
        f"Wrote {path}.",
        f"The issuer is {used.issuer}.",
        "Next:",
        f'  mintmark {option}clients add "Web shop" --first-party --public --audience orders',
        f"  mintmark {option}users add ada",
        f"  mintmark {option}serve",
    )
