"""Who asks: the client that a request's credentials prove (RFC 6749 s.2.3)."""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mintmark.core.directory import Client, check_client_id
from mintmark.core.events import EventName
from mintmark.errors import InvalidClient
from mintmark.ports.directory import Directory
from mintmark.server.audit import Audit
from mintmark.units import Issuer

_REFUSED: Final = "client authentication failed"
_NOBODY: Final = bytes(32)
"""What a secret is compared with where there is none: SHA-256 of nothing that anybody knows."""


class ClientAuthMethod(StrEnum):
    """How a client said who it is; the names are those of discovery (RFC 7591 s.2)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105 - the name of a method
    CLIENT_SECRET_POST = "client_secret_post"  # noqa: S105 - the name of a method
    NONE = "none"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What one request says of its client; ``secret`` is None exactly for the method ``none``."""

    method: ClientAuthMethod
    client_id: str
    secret: str | None = None


class Clients:
    """Authenticates the clients of one issuer."""

    def __init__(self, issuer: Issuer, *, directory: Directory, audit: Audit) -> None:
        self._issuer = issuer
        self._directory = directory
        self._audit = audit

    async def authenticate(self, credentials: Credentials | None) -> Client:
        """The client; raises InvalidClient, in one form and after the same work whatever was wrong.

        A confidential client proves its secret; a public one has none to prove, and sends none.
        """
        if credentials is None:
            raise InvalidClient("the request names no client")
        client = await self._find(credentials.client_id)
        stored = client.secret_hash if client is not None else None
        presented = hashlib.sha256((credentials.secret or "").encode("utf-8", "surrogatepass")).digest()
        proven = hmac.compare_digest(presented, stored or _NOBODY)
        if client is not None:
            if stored is None and credentials.secret is None:
                return client
            if stored is not None and credentials.secret is not None and proven:
                return client
        self._audit.record(
            EventName.CLIENT_REFUSED,
            client_id=credentials.client_id,
            reason="unknown" if client is None else "no_secret" if credentials.secret is None else "secret",
        )
        raise InvalidClient(_REFUSED)

    async def _find(self, client_id: str) -> Client | None:
        try:
            checked = check_client_id(client_id)
        except ValueError:
            return None
        return await self._directory.client(self._issuer, checked)
