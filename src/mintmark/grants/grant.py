"""What a grant is, and what it may ask of the server (RFC 6749 s.4).

A grant decides who the subject is. Everything that all grants share is done around it, where none can
forget it: the client is authenticated and registered for the grant, required parameters are there, and
whatever is minted is narrowed to what the request asked for and the client may have.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mintmark.core.directory import Client
from mintmark.units import Rid, Seconds, Sub


@dataclass(frozen=True, slots=True, repr=False)
class Granted:
    """What a token answer says (RFC 6749 s.5.1), and the ``rid`` of the session that it belongs to."""

    access_token: str
    expires_in: Seconds
    scope: tuple[str, ...]
    refresh_token: str | None = None
    rid: Rid | None = None
    refresh_lasts: Seconds = Seconds(0)
    """How long the refresh token can be used, if it is not used."""


class Issuance(Protocol):
    """One token request, as a grant sees it: bound to its client, its scope and its audience."""

    @property
    def client(self) -> Client:
        """The authenticated client."""
        ...

    async def mint(self, sub: Sub) -> Granted:
        """An access token for ``sub`` that belongs to no session."""
        ...

    async def refresh(self, refresh_token: str) -> Granted:
        """New tokens of the session that ``refresh_token`` belongs to; raises InvalidGrant."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One ``grant_type``.

    ``parameters`` are those that it requires; ``perform`` gets exactly these.
    """

    grant_type: str
    perform: Callable[[Issuance, Mapping[str, str]], Awaitable[Granted]]
    parameters: tuple[str, ...] = ()
    confidential_only: bool = False
    """Whether a client that cannot keep a secret may not use it."""
