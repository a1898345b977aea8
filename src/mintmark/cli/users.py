"""``mintmark users``: the people who log in."""

import getpass
from typing import Annotated, Final

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given, Invocation
from mintmark.cli.output import distance, table
from mintmark.cli.status import Misused
from mintmark.cli.stdin import is_person, read_bytes
from mintmark.core.directory import LOCKED_FOR_GOOD, User, is_barred
from mintmark.server.accounts import MAX_PASSWORD_BYTES, MIN_PASSWORD, generate_password
from mintmark.units import NumericDate, Seconds, parse_duration, spoken

app = App(name="users", help="Add, list, lock and disable users, and change their passwords.")

_ONCE: Final = "It is shown this once and kept nowhere in clear."

Name = Annotated[str, Parameter(help="The user's name. Case and forms of Unicode make no difference.")]
PasswordStdin = Annotated[
    bool,
    Parameter(
        help=f"Read the password from standard input, up to the end of its one line: at least {MIN_PASSWORD} "
        f"characters, at most {MAX_PASSWORD_BYTES} bytes. On a terminal it is asked for. Without this option "
        "one is made and shown once."
    ),
]


@app.command
async def add(
    name: Name,
    /,
    *,
    scope: Annotated[
        list[str] | None,
        Parameter(help="A scope that may be granted in the user's name. May be given many times."),
    ] = None,
    password_stdin: PasswordStdin = False,
    given: Given,
) -> None:
    """Add a user."""
    password, made = _password(given, asked=password_stdin)
    async with given.open(create=True) as opened:
        user = await opened.accounts.add_user(name, password, scopes=tuple(scope or ()))
    lines = [f"Added user {user.username}, {user.sub}."]
    given.output.answer(_document(user) | made, *lines, *_shown(made))


@app.command(name="list")
async def list_users(*, given: Given) -> None:
    """List the users."""
    async with given.open() as opened:
        users, now = await opened.accounts.users(), await opened.store.now()
    rows = [
        (
            user.username,
            user.sub,
            " ".join(user.scopes),
            distance(user.created_at, now),
            _state(user, now),
        )
        for user in users
    ]
    given.output.answer(
        {"users": [_document(user) for user in users]},
        table(("USERNAME", "SUB", "SCOPE", "ADDED", "STATE"), rows) if rows else "No users.",
    )


@app.command
async def disable(name: Name, /, *, given: Given) -> None:
    """Disable a user, and end all sessions of that user at once.

    Access tokens of these sessions are refused by every verifier that follows the feed. Disabling a user
    twice changes nothing.
    """
    async with given.open() as opened:
        user, ended = await opened.accounts.disable_user(name)
    given.output.answer(
        {"username": user.username, "sub": user.sub, "sessions_ended": ended},
        f"Disabled user {user.username}; sessions ended: {ended}."
        if user.disabled_at is None
        else f"User {user.username} was disabled before; nothing changed.",
    )


@app.command
async def lock(
    name: Name,
    /,
    *,
    for_: Annotated[
        str | None,
        Parameter(name="--for", help="How long, like `30m`. Without it: until the user is unlocked."),
    ] = None,
    given: Given,
) -> None:
    """Lock a user: no log-in and no refresh for as long as it lasts.

    Sessions are not ended, and go on afterwards where a client has kept its refresh token. Access tokens that
    were given out stay good until they expire; to have them refused, end the sessions or disable the user.
    """
    span = None if for_ is None else _span(for_)
    async with given.open() as opened:
        user = await opened.accounts.lock_user(name, span=span)
        now = await opened.store.now()
    given.output.answer(
        _document(user),
        f"Locked user {user.username}{_until(user, now)}. Access tokens live until they expire.",
    )


@app.command
async def unlock(name: Name, /, *, given: Given) -> None:
    """Unlock a user."""
    async with given.open() as opened:
        user, was_locked = await opened.accounts.unlock_user(name)
    given.output.answer(
        _document(user),
        f"Unlocked user {user.username}." if was_locked else f"User {user.username} was not locked.",
    )


@app.command
async def passwd(name: Name, /, *, password_stdin: PasswordStdin = False, given: Given) -> None:
    """Give a user another password, and end all sessions of that user at once."""
    password, made = _password(given, asked=password_stdin)
    async with given.open() as opened:
        user, ended = await opened.accounts.set_password(name, password)
    given.output.answer(
        {"username": user.username, "sub": user.sub, "sessions_ended": ended} | made,
        f"Changed the password of user {user.username}; sessions ended: {ended}.",
        *_shown(made),
    )


def _password(given: Invocation, *, asked: bool) -> tuple[str, dict[str, str]]:
    """The password, and where it was made here the member of the answer that shows it."""
    if not asked:
        made = generate_password(given.entropy)
        return made, {"password": made}
    return (_prompted() if is_person() else _piped()), {}


def _prompted() -> str:
    try:
        first = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") == first:
            return first
    except EOFError:
        raise Misused("no password was given") from None
    raise Misused("the two passwords differ")


def _piped() -> str:
    # One byte more than is allowed, and a line end, so that too long is told from just right.
    read = read_bytes(MAX_PASSWORD_BYTES + 3)
    try:
        text = read.decode()
    except UnicodeDecodeError:
        raise Misused("--password-stdin: not UTF-8") from None
    line = text.removesuffix("\n").removesuffix("\r")
    if "\n" in line or "\r" in line:
        raise Misused("--password-stdin: more than one line")
    return line


def _shown(made: dict[str, str]) -> tuple[str, ...]:
    return (f"Password: {made['password']}", _ONCE) if made else ()


def _span(text: str) -> Seconds:
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise Misused(f"--for: {error}") from None
    if span < 1:
        raise Misused("--for: a lock lasts for a second or longer")
    return span


def _state(user: User, now: NumericDate) -> str:
    if user.disabled_at is not None:
        return f"disabled {distance(user.disabled_at, now)}"
    return f"locked{_until(user, now)}" if is_barred(user, now) else "active"


def _until(user: User, now: NumericDate) -> str:
    if user.locked_until is None or user.locked_until == LOCKED_FOR_GOOD:
        return ""
    return f" for {spoken(user.locked_until - now)}"


def _document(user: User) -> dict[str, object]:
    return {
        "username": user.username,
        "sub": user.sub,
        "scope": " ".join(user.scopes),
        "created_at": user.created_at,
        "password_changed_at": user.password_changed_at,
        "disabled_at": user.disabled_at,
        "locked_until": user.locked_until,
    }
