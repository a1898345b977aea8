"""What the values of an account must be: each function gives its value as it is kept, or refuses it."""

from typing import Final

from mintmark.core import directory
from mintmark.core.logout_token import check_uri
from mintmark.errors import InvalidScope, RequestError
from mintmark.grants import GRANTS
from mintmark.server.setting import shown

_MAX_NAME: Final = 100
_MAX_AUDIENCE: Final = 255


class AccountRefused(RequestError):
    """A value that no account here may have; ``field`` names it, ``reason`` says why, and neither holds it
    where it is a secret."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def scopes_of(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """``scopes``, each once (RFC 6749 s.3.3)."""
    try:
        return directory.parse_scope(" ".join(scopes))
    except InvalidScope:
        raise AccountRefused(
            "scope", "a scope has printable ASCII characters without quotes and backslashes, at most 128"
        ) from None


def client_name(name: str) -> str:
    """``name`` as people are shown it."""
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable() or not name.strip():
        raise AccountRefused("client_name", f"a client's name has 1 to {_MAX_NAME} printable characters")
    return name


def logout_uri(uri: str | None) -> str | None:
    """``uri`` as a place where a client is told of logouts, if it has one."""
    try:
        return None if uri is None else check_uri(uri)
    except ValueError as error:
        raise AccountRefused("backchannel_logout_uri", str(error)) from None


def audiences_of(audiences: tuple[str, ...]) -> tuple[str, ...]:
    """What a client's tokens are for, each once: one service at least."""
    if not audiences:
        raise AccountRefused("audience", "a client has at least one audience: what its tokens are for")
    return _services(audiences, "audience")


def served_of(audiences: tuple[str, ...], *, public: bool) -> tuple[str, ...]:
    """What a client is the resource server of, each once."""
    if audiences and public:
        raise AccountRefused("serves", "only a client with a secret is told about tokens")
    return _services(audiences, "serves")


def _services(names: tuple[str, ...], field: str) -> tuple[str, ...]:
    for name in names:
        if not 1 <= len(name) <= _MAX_AUDIENCE or not name.isascii() or not name.isprintable():
            raise AccountRefused(field, f"an audience has 1 to {_MAX_AUDIENCE} printable ASCII characters")
        # A wildcard is a name like any other to a verifier, but not to whoever wrote it (RFC 9700 s.2.3).
        if " " in name or "*" in name:
            raise AccountRefused(field, "an audience names one service, without spaces and wildcards")
    return tuple(dict.fromkeys(names))


def origins_of(origins: tuple[str, ...], *, first_party: bool) -> tuple[str, ...]:
    """The web origins of a client's pages, each once."""
    if origins and not first_party:
        raise AccountRefused("origin", "only the pages of a first-party client keep sessions in a cookie")
    try:
        return tuple(dict.fromkeys(directory.check_origin(origin) for origin in origins))
    except ValueError as error:
        raise AccountRefused("origin", str(error)) from None


def grant_types_of(asked: tuple[str, ...], *, public: bool, first_party: bool) -> tuple[str, ...]:
    """The grants that were asked for, each once, or those that a client of this kind can use."""
    if not asked:
        if public and not first_party:
            raise AccountRefused("grant_type", "a public client that is not first-party needs a grant")
        return ("refresh_token",) if first_party else ("client_credentials",)
    for name in asked:
        grant = GRANTS.get(name)
        if grant is None:
            raise AccountRefused(
                "grant_type", f'there is no grant "{shown(name)}"; there are {" and ".join(sorted(GRANTS))}'
            )
        if public and grant.confidential_only:
            raise AccountRefused("grant_type", f"{name} is for clients with a secret")
    return tuple(dict.fromkeys(asked))
