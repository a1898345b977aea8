"""A client goes on with a session (RFC 6749 s.6)."""

from collections.abc import Mapping
from typing import Final

from mintmark.grants.grant import Grant, Granted, Issuance


async def _perform(issuance: Issuance, parameters: Mapping[str, str]) -> Granted:
    return await issuance.refresh(parameters["refresh_token"])


GRANT: Final = Grant(grant_type="refresh_token", perform=_perform, parameters=("refresh_token",))
