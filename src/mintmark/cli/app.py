"""The commands by name, the options that all of them have, and how a command ends."""

import asyncio
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

from mintmark.cli import clients, keys, sessions, timing, token, users
from mintmark.cli.doctor import doctor
from mintmark.cli.drill import family as drill
from mintmark.cli.init import init
from mintmark.cli.invocation import Invocation
from mintmark.cli.output import Output
from mintmark.cli.serve import demo, serve
from mintmark.cli.status import Status, lines_of, missing_package, printable, status_of
from mintmark.cli.usage import complaint
from mintmark.errors import MintmarkError

_END_OF_OPTIONS: Final = "--"
_HYPHENED: Final = re.compile(r"-|-[A-Za-z0-9_-]{21}|-[A-Za-z0-9_-]{42}")
"""An argument that begins with a hyphen and is no option: standard input, a ``rid``, a ``kid``. Ids are
base64url, so one in 64 looks like this; no option of ours is as long, and a test says so."""

app = App(
    name="mintmark",
    help="JWT access tokens that any service verifies offline, and that a logout still ends within a second.",
    version=lambda: f"mintmark {version('mintmark')}",
    # A flag is given or not: no command has a `--no-…` for each.
    default_parameter=Parameter(negative=(), show_default=False),
)
app.command(init)
app.command(serve)
app.command(demo)
app.command(doctor)
for family in (users.app, clients.app, keys.app, timing.app, sessions.app, token.app, drill.app):
    app.command(family)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            help="The configuration file; else `$MINTMARK_CONFIG`, else `mintmark.toml` if there is one."
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        Parameter(
            help="The issuer that the command is about, by its URL; needed where `[[issuers]]` names several."
        ),
    ] = None,
    json: Annotated[
        bool, Parameter(help="Answer with one JSON document.", negative=(), show_default=False)
    ] = False,
    rest: Annotated[tuple[str, ...], Parameter(parse=False)],
) -> int:
    """Run the command in ``tokens`` and ``rest``, whatever stands between the options of all commands."""
    command, bound, ignored = app.parse_args([*tokens, *rest], exit_on_error=False, print_error=False)
    invocation = Invocation(config=config, issuer=issuer, output=Output(as_json=json))
    result: Any = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, invocation))
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return result if isinstance(result, int) else Status.OK


def run(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` holds, and say what went wrong; the exit status.

    Every mistake is one line on standard error. A defect of ours is one line too, and its traceback with
    ``MINTMARK_LOG_LEVEL=debug``.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end a command that has already acted.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
    except CycloptsError as error:
        return _say(Status.MISUSED, complaint(error, app))
    except MintmarkError as error:
        return _say(status_of(error), *lines_of(error))
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except OSError as error:
        return _unwritten(error)
    except Exception as error:  # noqa: BLE001 - what is none of our errors is a defect, and is called one
        return _defect(error)
    return status


def _run(argv: Sequence[str]) -> int:
    words, rest = _split(argv)
    # What follows `--` is no option at all, so the parser of those of all commands never sees it.
    command, bound, ignored = app.meta.parse_args(words, exit_on_error=False, print_error=False)
    result: Any = command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, rest))
    return result if isinstance(result, int) else Status.OK


def _split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words that may be options, and those that cannot, behind a ``--``.

    Only commands with a single argument take one that begins with a hyphen, so no order is lost.
    """
    end = list(argv).index(_END_OF_OPTIONS) if _END_OF_OPTIONS in argv else len(argv)
    words = [word for word in argv[:end] if not _HYPHENED.fullmatch(word)]
    others = [word for word in argv[:end] if _HYPHENED.fullmatch(word)] + list(argv[end + 1 :])
    return words, ((_END_OF_OPTIONS, *others) if others else ())


def _say(status: Status, *lines: str) -> int:
    for line in lines:
        sys.stderr.write(f"mintmark: {line}\n")
    return status


def _unwritten(error: OSError) -> int:
    """The system refused something; most often it is our output that nobody takes."""
    try:
        sys.stdout.flush()
    except OSError:
        # What is left in the buffer would fail once more at exit, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Whoever closed the pipe has read enough of the answer, and wants no line about it.
    lines = () if isinstance(error, BrokenPipeError) else (printable(error.strerror or type(error).__name__),)
    return _say(Status.FAILED, *lines)


def _defect(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError):
        try:
            return _say(Status.MISUSED, missing_package(error))
        except ModuleNotFoundError:
            pass
    if os.environ.get("MINTMARK_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    # Not its text: nobody knows what that holds.
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return _say(
        Status.DEFECT,
        f"a defect: {type(error).__name__} at {printable(where)}; see more with MINTMARK_LOG_LEVEL=debug",
    )
