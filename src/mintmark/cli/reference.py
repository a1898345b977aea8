"""The reference page of the command line, derived from the commands themselves."""

import types
from collections.abc import Iterator
from typing import Any, Final, Union, get_args, get_origin

from cyclopts import App

from mintmark.cli.app import app
from mintmark.cli.status import Status

_INTRODUCTION: Final = """\
A command prints its answer on standard output, and everything about itself on standard error: a mistake is
one line there, and every change is one line of the log where standard error is no terminal. A password or a
secret that a command makes is shown once, on standard output, and never written anywhere else.

With `--json` the answer is one JSON document. Its members are named as in the RFCs where they have a name
for them, and times are NumericDates (whole seconds since 1970, UTC). `NO_COLOR` is respected."""


def markdown(mark: str) -> str:
    """The page; ``mark`` is the line that says where it comes from."""
    page = ["# Command line", mark, _INTRODUCTION, "## Options of every command", _options(app.meta)]
    for chain, command in _walk(app, ()):
        if command.default_command is None:
            continue
        page += [f"## `{' '.join(chain)}`", f"```console\n$ {_usage(chain, command)}\n```", _prose(command)]
        if options := _options(command):
            page.append(options)
    page += ["## Exit status", _statuses()]
    return "\n\n".join(page) + "\n"


def _walk(parent: App, chain: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command below ``parent``, in the order in which they were added, families before members."""
    for name in parent:
        if not name.startswith("-"):
            yield (*chain, name), parent[name]
            yield from _walk(parent[name], (*chain, name))


def _arguments(command: App) -> list[Any]:
    return [one for one in command.assemble_argument_collection() if one.parse and one.show]


def _usage(chain: tuple[str, ...], command: App) -> str:
    words = ["mintmark", *chain]
    for one in sorted(_arguments(command), key=lambda one: (not one.required, one.index is None)):
        word = one.name if one.index is not None else f"{one.name}{_placeholder(one)}"
        words.append(word if one.required else f"[{word}]")
        if _is_list(one.hint):
            words[-1] += "…"
    return " ".join(words)


def _options(command: App) -> str:
    return "\n".join(
        f"- `{one.name}{_placeholder(one)}`: {one.parameter.help}" for one in _arguments(command)
    )


def _placeholder(argument: Any) -> str:
    """What follows an option on the command line: nothing behind a flag."""
    if argument.index is not None or argument.hint is bool:
        return ""
    name: str = argument.name
    return " " + name.lstrip("-").replace("-", "_").upper()


def _is_list(hint: object) -> bool:
    if get_origin(hint) in {Union, types.UnionType}:
        return any(_is_list(one) for one in get_args(hint))
    return get_origin(hint) is list


def _prose(command: App) -> str:
    """The command's docstring, its paragraphs unfolded."""
    text: str = command.help
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _statuses() -> str:
    rows = (f"| {status.value} | {status.meaning} |" for status in Status)
    return "\n".join(["| status | meaning |", "|---|---|", *rows])
