"""A client and a user for as long as a drill lasts, with names that say what they are for."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from mintmark.cli.drill.logout import Person
from mintmark.cli.invocation import Opened
from mintmark.cli.status import Failed
from mintmark.core.minting import ID_BYTES, random_id
from mintmark.errors import MintmarkError, NotFound
from mintmark.ports.clock import Entropy
from mintmark.server.accounts import generate_password

PREFIX: Final = "drill-logout-"
"""What the name of the client, the user and the audience begins with."""


@contextlib.asynccontextmanager
async def guest(opened: Opened, entropy: Entropy) -> AsyncIterator[Person]:
    """Somebody who can log in, removed when the block ends, however it does.

    The client's id is the audience of its tokens too, so that no service takes them. Raises Failed, with the
    commands that do it by hand, where removing fails.
    """
    name = PREFIX + random_id(entropy.token_bytes(ID_BYTES)).replace("-", "x").replace("_", "x").lower()
    password = generate_password(entropy)
    accounts = opened.accounts
    try:
        await accounts.add_client(name, client_id=name, audiences=(name,), public=True, first_party=True)
        await accounts.add_user(name, password)
        yield Person(opened.settings.issuer, name, name, password)
    finally:
        left = [
            f"mintmark {command} {name}"
            for command, removal in (
                ("clients remove", lambda: accounts.remove_client(name)),
                ("users disable", lambda: _remove_user(opened, name)),
            )
            if not await _removed(removal)
        ]
        if left:
            raise Failed(f"the drill could not clean up after itself; run {' and '.join(left)}")


async def _remove_user(opened: Opened, name: str) -> None:
    user, _ = await opened.accounts.disable_user(name)
    await opened.store.directory.remove_user(user.issuer, user.sub)


async def _removed(removal: Callable[[], Awaitable[object]]) -> bool:
    """Whether it is gone; one that never came into being is."""
    try:
        await removal()
    except NotFound:
        return True
    except MintmarkError:
        return False
    return True
