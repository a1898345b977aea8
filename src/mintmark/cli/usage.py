"""What is said about a command line that cannot be parsed: one line, with the word that was likely meant.

Values are never repeated: somebody may have typed a password where none belongs.
"""

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from mintmark.cli.status import nearest, printable
from mintmark.server.setting import shown

_EVERYWHERE = ("--config", "--issuer", "--json", "--help", "-h")
"""Options that every command has."""


def complaint(error: CycloptsError, app: App) -> str:
    """The line about ``error``, which ended the parsing of a command line of ``app``."""
    chain = tuple(error.command_chain or ())
    command = " ".join(("mintmark", *chain))
    known = _known(app, chain)
    misspelled = _misspelled(error, known)
    match error:
        # A misspelled option shows in many ways, as its value is left over or the right one is missing.
        case _ if misspelled:
            said = f"unknown option {shown(misspelled)}{nearest(misspelled, known) or _behind(misspelled)}"
        case UnknownCommandError():
            word = (error.unused_tokens or [""])[0]
            said = f"unknown command {shown(word)}{nearest(word, _commands(app, chain))}"
        case MissingArgumentError() if error.keyword is not None:
            said = f"{error.keyword} needs a value"
        case MissingArgumentError():
            said = f"{error.argument.name if error.argument is not None else 'an argument'} is missing"
        case UnusedCliTokensError():
            said = f"too many arguments: {len(error.unused_tokens or ())} more than it takes"
        case RepeatArgumentError():
            said = f"{error.token.keyword} is given twice"
        case CoercionError() if error.argument is not None:
            what = "a whole number" if error.target_type is int else "a value that it can have"
            said = f"{error.argument.name}: not {what}"
        case _:
            said = printable(str(error))
    return f"{said} (usage: {command} --help)"


def _behind(word: str) -> str:
    return "" if word.startswith("--") else "; an argument that begins with a hyphen goes behind --"


def _misspelled(error: CycloptsError, known: tuple[str, ...]) -> str | None:
    """The first word that looks like an option and is none, up to where options end."""
    if isinstance(error, UnknownOptionError):
        return (error.token.keyword or error.token.value).partition("=")[0]
    for word in error.root_input_tokens or ():
        if word == "--":
            break
        name = word.partition("=")[0]
        if word.startswith("--") and name not in known and isinstance(error, _LEFT_OVER):
            return name
    return None


_LEFT_OVER = (UnknownCommandError, MissingArgumentError, UnusedCliTokensError)


def _known(app: App, chain: tuple[str, ...]) -> tuple[str, ...]:
    """Every option of the command that ``chain`` names."""
    try:
        arguments = _find(app, chain).assemble_argument_collection()
    # A family of commands has no arguments of its own.
    except (KeyError, ValueError):
        return _EVERYWHERE
    own = (name for argument in arguments if argument.parse for name in argument.names)
    return (
        *(name for name in own if name.startswith("-")),
        *_EVERYWHERE,
        *(("--version",) if not chain else ()),
    )


def _commands(app: App, chain: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in _find(app, chain) if not name.startswith("-"))


def _find(app: App, chain: tuple[str, ...]) -> App:
    for name in chain:
        app = app[name]
    return app
