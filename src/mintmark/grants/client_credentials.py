"""A service asks in its own name (RFC 6749 s.4.4)."""

from collections.abc import Mapping
from typing import Final

from mintmark.grants.grant import Grant, Granted, Issuance
from mintmark.units import Sub


async def _perform(issuance: Issuance, _: Mapping[str, str]) -> Granted:
    # RFC 9068 s.2.2: the subject is the client. There is no session, and no refresh token (s.4.4.3).
    return await issuance.mint(Sub(issuance.client.client_id))


GRANT: Final = Grant(grant_type="client_credentials", perform=_perform, confidential_only=True)
