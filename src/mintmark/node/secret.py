"""Secrets from where the settings say that they are."""

import asyncio
import os
import re
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mintmark.core.mark import UNMARKED, MarkKey, Marks
from mintmark.core.sealing import UNPEPPERED, Pepper
from mintmark.errors import ConfigurationError
from mintmark.node.custody import without_secrets
from mintmark.server.setting import SecretForm, SecretSource
from mintmark.server.settings import Settings

_MAX_BYTES: Final = 65_536
_LEAST_TOKEN: Final = 16
_TOKEN: Final = re.compile(rb"(?=.{%d,4096}\Z)[A-Za-z0-9._~+/-]+=*" % _LEAST_TOKEN)
"""RFC 6750 s.2.1, of a length that nobody guesses."""
_PATIENCE: Final = 30.0
"""Seconds for a command: it may ask a vault."""


@dataclass(frozen=True, slots=True, repr=False)
class ClusterKeys:
    """What the secret that nodes share and the store never holds is used for, each use with its own key."""

    marks: Marks = UNMARKED
    pepper: Pepper = UNPEPPERED


async def read_secret(
    source: SecretSource,
    *,
    setting: str,
    environ: Mapping[str, str] | None = None,
    for_command: Mapping[str, str] | None = None,
) -> bytes:
    """What is at ``source``, without the newline at its end; a command gets ``for_command`` or ``environ``.

    Raises ConfigurationError that names the ``setting`` and the source, and repeats nothing of the secret.
    """
    variables = os.environ if environ is None else environ
    try:
        found = await _read(source, variables, variables if for_command is None else for_command)
    except KeyError:
        raise ConfigurationError(setting, f"{source}: there is no such variable") from None
    except OSError as error:
        raise ConfigurationError(setting, f"{source}: {(error.strerror or 'unreadable').lower()}") from None
    except ValueError as error:
        raise ConfigurationError(setting, f"{source}: {error}") from None
    secret = found.rstrip(b"\r\n")
    if not secret or len(secret) > _MAX_BYTES:
        reason = "is empty" if not secret else f"is longer than {_MAX_BYTES} bytes"
        raise ConfigurationError(setting, f"{source}: {reason}")
    return secret


async def read_cluster_keys(settings: Settings) -> ClusterKeys:
    """What ``cluster_key`` and ``cluster_key_also`` come to; raises ConfigurationError."""
    if settings.cluster_key is None:
        return ClusterKeys()
    for_command = without_secrets(settings, os.environ)
    key, own = await _derived(settings.cluster_key, "cluster_key", for_command)
    also = settings.cluster_key_also
    if isinstance(also, SecretSource):
        second, other = await _derived(also, "cluster_key_also", for_command)
        return ClusterKeys(Marks(key=key, also=(second,)), Pepper(key=own, also=(other,)))
    if also is not None:
        # Some nodes may have no key yet: they open what is sealed without one, and nothing else.
        return ClusterKeys(Marks(key=key, unmarked=True), Pepper(also=(own,)))
    return ClusterKeys(Marks(key=key), Pepper(key=own))


async def read_marks(settings: Settings) -> Marks:
    """The marks alone; as :func:`read_cluster_keys`."""
    return (await read_cluster_keys(settings)).marks


async def read_feed_tokens(settings: Settings) -> tuple[str, ...]:
    """The tokens that ``feed_token`` comes to, none where it is not set; raises ConfigurationError."""
    source = settings.feed_token
    if source is None:
        return ()
    for_command = without_secrets(settings, os.environ)
    lines = (await read_secret(source, setting="feed_token", for_command=for_command)).splitlines()
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens or not all(_TOKEN.fullmatch(token) for token in tokens):
        # Nothing of it is repeated, not even which line it is about.
        reason = f"each line must be {_LEAST_TOKEN} or more of the characters that a Bearer token may have"
        raise ConfigurationError("feed_token", f"{source}: {reason}")
    return tuple(token.decode() for token in tokens)


async def _derived(
    source: SecretSource, setting: str, for_command: Mapping[str, str]
) -> tuple[MarkKey, bytes]:
    secret = await read_secret(source, setting=setting, for_command=for_command)
    try:
        return MarkKey.from_bytes(secret), Pepper.derive(secret)
    except ValueError as error:
        raise ConfigurationError(setting, f"{source}: {error}") from None


async def _read(source: SecretSource, environ: Mapping[str, str], for_command: Mapping[str, str]) -> bytes:
    match source.form:
        case SecretForm.FILE:
            return await asyncio.to_thread(_read_file, Path(source.target))
        case SecretForm.ENV:
            return os.fsencode(environ[source.target])
        case SecretForm.COMMAND:
            return await _run(source.argv, for_command)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 3)


async def _run(argv: tuple[str, ...], environ: Mapping[str, str]) -> bytes:
    # What it says of itself goes where our own messages go; what it prints is the secret.
    process = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=PIPE, env=environ)
    try:
        async with asyncio.timeout(_PATIENCE):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise ValueError(f"the command took longer than {_PATIENCE:.0f} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ValueError(f"the command ended with status {process.returncode}")
    return printed
