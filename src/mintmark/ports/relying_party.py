"""Telling a relying party that a session ended (OIDC Back-Channel Logout 1.0 s.2.5).

Relying parties are other people's servers: some are slow, some are down, and one may mean harm.

- PARTY-1 ``tell`` posts ``logout_token`` as a form to exactly that URI, and says what the status of the
  answer was, whatever its body is, which is not read.
- PARTY-2 Whatever happens instead is Unanswered with a stable reason, within six seconds; nothing foreign.
- PARTY-3 No redirect is followed, and no cookie is kept: nothing that one relying party answers has part in
  what another one, or itself, is told next.
- PARTY-4 Nothing leaves this machine but over ``https``, to a certificate that proves the host; what stays on
  it goes through no proxy.
- PARTY-5 Calls are independent: one that hangs holds up no other.
"""

from dataclasses import dataclass
from typing import Protocol

from mintmark.errors import MintmarkError
from mintmark.units import Seconds


class Unanswered(MintmarkError):
    """No answer came; ``reason`` is stable: ``uri``, ``timeout``, ``connect`` or ``network``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the relying party did not answer: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answered:
    """The status of an answer, and for how long it asks to be left alone (RFC 9110 s.10.2.3)."""

    status: int
    retry_after: Seconds | None = None


class RelyingParties(Protocol):
    """The way to them."""

    async def tell(self, uri: str, logout_token: str) -> Answered:
        """Post ``logout_token`` to ``uri``. Raises Unanswered."""
        ...
