"""Where users and clients are kept.

- DIRECTORY-1 A user name (normalized), a ``sub`` and a ``client_id`` are unique in their issuer; adding
  another is Conflict, and of two that race one wins.
- DIRECTORY-2 Disabling a user, changing a password and removing a client end the sessions concerned in the
  same transaction, with one ``rid`` event each where a token may still be valid. Where they are too many for
  one transaction, some end before it.
- DIRECTORY-3 What does not exist is NotFound where it should be changed, and None where it is looked up.
- DIRECTORY-4 Removing a client appends one ``client`` event instead of one for each session: it denies what
  the client was given in its own name too.
- DIRECTORY-5 Only a user who is disabled can be removed; the name is free again then.
"""

from typing import Protocol

from mintmark.core.directory import Client, User
from mintmark.core.timing import Timing
from mintmark.units import ClientId, Issuer, NumericDate, Sub


class Directory(Protocol):
    """Users and clients of each issuer."""

    async def add_user(self, user: User) -> None:
        """Raises Conflict where the name or the subject is taken."""
        ...

    async def user_named(self, issuer: Issuer, username: str) -> User | None:
        """The user of this normalized name."""
        ...

    async def user(self, issuer: Issuer, sub: Sub) -> User | None:
        """The user of this subject."""
        ...

    async def users(self, issuer: Issuer) -> tuple[User, ...]:
        """All users, by name."""
        ...

    async def disable_user(self, issuer: Issuer, sub: Sub, *, timing: Timing) -> int:
        """Disable, and end every session; how many it ended. Disabling twice changes nothing."""
        ...

    async def set_password(self, issuer: Issuer, sub: Sub, password_hash: str, *, timing: Timing) -> int:
        """Change the password, and end every session; how many it ended."""
        ...

    async def lock_user(self, issuer: Issuer, sub: Sub, until: NumericDate | None) -> None:
        """Have nothing minted in the user's name before ``until``; None lifts it. Raises NotFound."""
        ...

    async def rehash_password(self, user: User, password_hash: str) -> bool:
        """Store the same password under newer parameters; False where it was changed meanwhile."""
        ...

    async def remove_user(self, issuer: Issuer, sub: Sub) -> None:
        """Remove a user who was disabled, and so has no session; NotFound where there is none such."""
        ...

    async def add_client(self, client: Client) -> None:
        """Raises Conflict where the id is taken."""
        ...

    async def client(self, issuer: Issuer, client_id: ClientId) -> Client | None:
        """The client of this id."""
        ...

    async def clients(self, issuer: Issuer) -> tuple[Client, ...]:
        """All clients, by id."""
        ...

    async def set_client_secret(self, issuer: Issuer, client_id: ClientId, secret_hash: bytes) -> None:
        """Replace the secret: the old one is refused from the moment this returns."""
        ...

    async def set_backchannel_logout_uri(self, issuer: Issuer, client_id: ClientId, uri: str | None) -> None:
        """Change where the client is told of ended sessions, of earlier ones too; None: nowhere."""
        ...

    async def remove_client(self, issuer: Issuer, client_id: ClientId, *, timing: Timing) -> int:
        """Remove it, and end every session of its; how many it ended."""
        ...
