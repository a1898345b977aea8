"""What a node hands its signer to keep keys with: descriptors, which control opens and does not read."""

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from typing import Final

from mintmark.core.key import KeyMode
from mintmark.errors import ConfigurationError, SignerUnavailable
from mintmark.server.setting import SecretForm, SecretSource
from mintmark.server.settings import Settings
from mintmark.signer.custody import MAX_SECRET, Custody, HsmCustody

_MOMENT: Final = 1.0
"""Seconds for a command to end that has printed all that anyone will read."""


@contextlib.asynccontextmanager
async def open_custody(
    settings: Settings, *, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Custody]:
    """What ``settings`` give a signer that is started in this block; commands run while it starts.

    Raises ConfigurationError that names the setting and repeats nothing of a secret; also at the end of the
    block, where no signer came up because a command failed.
    """
    async with contextlib.AsyncExitStack() as stack:
        variables = os.environ if environ is None else environ
        sources = _Sources(stack, variables, for_commands=without_secrets(settings, variables))
        seal_key = await sources.open(settings.seal_key, "seal_key")
        previous = await sources.open(settings.seal_key_previous, "seal_key_previous")
        pin = await sources.open(settings.hsm_pin, "hsm_pin")
        hsm = None
        if settings.hsm_module is not None and settings.hsm_token is not None and pin is not None:
            wanted = [each.partition("=") for each in settings.hsm_environment]
            hsm = HsmCustody(
                module=settings.hsm_module,
                token=settings.hsm_token,
                pin=pin,
                environment=tuple((name, value) for name, _, value in wanted),
                allow=settings.hsm_allow,
            )
        try:
            yield Custody(seal_key=seal_key, seal_key_previous=previous, hsm=hsm)
        except (ConfigurationError, SignerUnavailable):
            # What the signer says of an answer that never came is not the cause.
            await sources.check()
            raise


def modes_of(settings: Settings) -> frozenset[KeyMode]:
    """What keys a signer with this custody can hold; any of them, for a switch may come."""
    given = {KeyMode.OWN: True, KeyMode.SHARED: settings.seal_key, KeyMode.HSM: settings.hsm_module}
    return frozenset(mode for mode, needed in given.items() if needed is not None)


def secret_variables(settings: Settings) -> frozenset[str]:
    """The variables that hold what only the signer is to have; no other child of control inherits them."""
    given = (settings.seal_key, settings.seal_key_previous, settings.hsm_pin)
    return frozenset(
        source.target for source in given if source is not None and source.form is SecretForm.ENV
    )


def without_secrets(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What of ``environ`` a command gets that prints a secret: not the variables that hold the others."""
    nodes = (settings.cluster_key, settings.cluster_key_also, settings.feed_token)
    withheld = secret_variables(settings) | {
        source.target
        for source in nodes
        if isinstance(source, SecretSource) and source.form is SecretForm.ENV
    }
    return {name: value for name, value in environ.items() if name not in withheld}


class _Sources:
    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        environ: Mapping[str, str],
        *,
        for_commands: Mapping[str, str],
    ) -> None:
        self._stack = stack
        self._environ = environ
        self._for_commands = for_commands
        self._commands: list[tuple[str, SecretSource, Process]] = []

    async def open(self, source: SecretSource | None, setting: str) -> int | None:
        """A descriptor that gives what is at ``source``."""
        if source is None:
            return None
        reason = "unreadable"
        try:
            match source.form:
                case SecretForm.FILE:
                    return self._closing(await asyncio.to_thread(os.open, source.target, os.O_RDONLY))
                case SecretForm.ENV:
                    return self._piped(os.fsencode(self._environ[source.target]))
                case SecretForm.COMMAND:
                    return await self._printed(setting, source)
        except KeyError:
            reason = "there is no such variable"
        except ValueError as error:
            reason = str(error)
        except OSError as error:
            reason = (error.strerror or reason).lower()
        raise ConfigurationError(setting, f"{source}: {reason}")

    async def check(self) -> None:
        """Raise ConfigurationError for the first command that did not end well."""
        for setting, source, process in self._commands:
            try:
                async with asyncio.timeout(_MOMENT):
                    status = await process.wait()
            except TimeoutError:
                raise ConfigurationError(setting, f"{source}: the command does not end") from None
            if status != 0:
                raise ConfigurationError(setting, f"{source}: the command ended with status {status}")

    def _closing(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _piped(self, content: bytes) -> int:
        # A pipe takes this much without anybody who reads.
        if len(content) > MAX_SECRET:
            raise ValueError(f"is longer than {MAX_SECRET} bytes")
        reading, writing = os.pipe()
        self._closing(reading)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)
        return reading

    async def _printed(self, setting: str, source: SecretSource) -> int:
        reading, writing = os.pipe()
        self._closing(reading)
        try:
            process = await asyncio.create_subprocess_exec(
                *source.argv, stdin=DEVNULL, stdout=writing, env=self._for_commands
            )
        finally:
            os.close(writing)
        self._stack.push_async_callback(_end, process)
        self._commands.append((setting, source, process))
        return reading


async def _end(process: Process) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MOMENT):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
