"""The grants of the token endpoint: one file each, and one line each here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mintmark.grants import client_credentials, refresh_token
from mintmark.grants.grant import Grant

GRANTS: Final[Mapping[str, Grant]] = MappingProxyType(
    {
        grant.grant_type: grant
        for grant in (
            client_credentials.GRANT,
            refresh_token.GRANT,
        )
    }
)
"""Every grant by its ``grant_type``; discovery lists them."""
