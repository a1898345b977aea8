"""Users and clients, as whoever administers an issuer sees them: added, changed, listed and ended.

Passwords and secrets exist here in clear for the length of one call: they go into a hash and, where they
were made here, once to the caller. Nothing keeps them, and no error and no event holds them.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from mintmark.core import base64url, directory
from mintmark.core.directory import LOCKED_FOR_GOOD, USER_PREFIX, Client, User
from mintmark.core.events import EventName
from mintmark.core.minting import ID_BYTES, random_id
from mintmark.core.sessions import EndCause, Session
from mintmark.core.timing import Timing
from mintmark.errors import Conflict, NotFound
from mintmark.ports.clock import Entropy
from mintmark.ports.passwords import PasswordHasher
from mintmark.ports.store import Store
from mintmark.server.account_value import (
    AccountRefused,
    audiences_of,
    client_name,
    grant_types_of,
    logout_uri,
    origins_of,
    scopes_of,
    served_of,
)
from mintmark.server.audit import Audit
from mintmark.server.setting import shown
from mintmark.units import ClientId, Issuer, NumericDate, Rid, Seconds, Sub

MIN_PASSWORD: Final = 15
"""Characters of a password that is the only factor (NIST SP 800-63B-4 s.3.1.1.2), counted by code point."""
MAX_PASSWORD_BYTES: Final = directory.MAX_PASSWORD_BYTES
SECRET_PREFIX: Final = "mms_"  # noqa: S105 - what every client secret begins with
"""What every client secret begins with, so that scanners of source code find one that leaked."""
CLIENT_ID_PREFIX: Final = "mmc_"

_BEYOND: Final = 8
"""Characters that a password has beside the words that an attacker tries first here."""
_LONG_WORD: Final = 4
"""Shorter words occur in any text, so that finding one says nothing."""
_SECRET_BYTES: Final = 32
# 32 characters that nobody takes for each other; a byte's low five bits choose one without bias.
_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_GROUPS: Final = 5
_GROUP: Final = 5


@dataclass(frozen=True, slots=True, repr=False)
class ClientAdded:
    """A new client; ``secret`` is here and nowhere else, and None for a public client."""

    client: Client
    secret: str | None


@dataclass(frozen=True, slots=True)
class SessionListed:
    """A session and the name of its user, None where the user is gone."""

    session: Session
    username: str | None


class Accounts:
    """The users, clients and sessions of one issuer, for its administrator."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        store: Store,
        passwords: PasswordHasher,
        entropy: Entropy,
        timing: Timing,
        audit: Audit,
    ) -> None:
        self._issuer = issuer
        self._store = store
        self._passwords = passwords
        self._entropy = entropy
        self._timing = timing
        self._audit = audit

    # --- users -------------------------------------------------------------------------------------

    async def add_user(self, name: str, password: str, *, scopes: tuple[str, ...] = ()) -> User:
        """A new user who may grant ``scopes``.

        Raises AccountRefused for a name, password or scope that is none; Conflict where the name is taken.
        """
        username = _username(name)
        check_password(password, username=username, issuer=self._issuer)
        granted = scopes_of(scopes)
        if await self._store.directory.user_named(self._issuer, username) is not None:
            raise _taken(username)
        hashed = await self._passwords.hash(password)
        now = await self._store.now()
        user = User(
            issuer=self._issuer,
            sub=Sub(USER_PREFIX + random_id(self._entropy.token_bytes(ID_BYTES))),
            username=username,
            password_hash=hashed,
            scopes=granted,
            created_at=now,
            password_changed_at=now,
        )
        try:
            await self._store.directory.add_user(user)
        except Conflict:
            raise _taken(username) from None
        self._audit.record(EventName.USER_ADDED, sub=user.sub)
        return user

    async def users(self) -> tuple[User, ...]:
        """Every user, by name."""
        return await self._store.directory.users(self._issuer)

    async def disable_user(self, name: str) -> tuple[User, int]:
        """The user as found, disabled now, and how many sessions that ended. Raises NotFound.

        Disabling a user twice changes nothing, and is no event.
        """
        user = await self.user(name)
        ended = await self._store.directory.disable_user(self._issuer, user.sub, timing=self._timing)
        if user.disabled_at is None:
            self._audit.record(EventName.USER_DISABLED, sub=user.sub, sessions=ended)
        return user, ended

    async def lock_user(self, name: str, *, span: Seconds | None = None) -> User:
        """The user, locked from now on for ``span``, or until he is unlocked. Raises NotFound.

        Nothing is minted for him meanwhile, and he cannot log in; his sessions go on afterwards. A second
        lock replaces the first, whichever ends later.
        """
        user = await self.user(name)
        until = LOCKED_FOR_GOOD
        if span is not None:
            until = min(NumericDate(await self._store.now() + span), LOCKED_FOR_GOOD)
        await self._store.directory.lock_user(self._issuer, user.sub, until)
        self._audit.record(EventName.USER_LOCKED, sub=user.sub, locked_until=until)
        return replace(user, locked_until=until)

    async def unlock_user(self, name: str) -> tuple[User, bool]:
        """The user, whom no lock bars any more, and whether one did until now. Raises NotFound."""
        user = await self.user(name)
        was_locked = user.locked_until is not None and await self._store.now() < user.locked_until
        await self._store.directory.lock_user(self._issuer, user.sub, None)
        if was_locked:
            self._audit.record(EventName.USER_UNLOCKED, sub=user.sub)
        return replace(user, locked_until=None), was_locked

    async def set_password(self, name: str, password: str) -> tuple[User, int]:
        """The user, with a new password, and how many sessions that ended.

        Raises NotFound, and AccountRefused for a password that is none.
        """
        user = await self.user(name)
        check_password(password, username=user.username, issuer=self._issuer)
        hashed = await self._passwords.hash(password)
        ended = await self._store.directory.set_password(self._issuer, user.sub, hashed, timing=self._timing)
        self._audit.record(EventName.PASSWORD_CHANGED, sub=user.sub, sessions=ended)
        return user, ended

    async def user(self, name: str) -> User:
        """The user of this name, in whatever spelling; raises NotFound."""
        try:
            username = directory.normalize_username(name)
        except ValueError:
            username = ""
        user = await self._store.directory.user_named(self._issuer, username) if username else None
        if user is None:
            raise NotFound(f'there is no user "{shown(name)}"')
        return user

    # --- clients -----------------------------------------------------------------------------------

    async def add_client(
        self,
        name: str,
        *,
        audiences: tuple[str, ...],
        client_id: str | None = None,
        public: bool = False,
        first_party: bool = False,
        grant_types: tuple[str, ...] = (),
        scopes: tuple[str, ...] = (),
        origins: tuple[str, ...] = (),
        rotates_refresh: bool = True,
        backchannel_logout_uri: str | None = None,
        serves: tuple[str, ...] = (),
    ) -> ClientAdded:
        """A new client. Without ``grant_types`` it gets those that its kind can use.

        One that ``serves`` audiences may introspect their tokens, and may have no audience of its own: then
        it gets no tokens.

        Raises AccountRefused for what no client may have or be; Conflict where the id is taken.
        """
        checked_id = self._client_id(client_id)
        if public and not rotates_refresh:
            raise AccountRefused(
                "rotates_refresh", "a client without a secret has nothing else that tells it from a thief"
            )
        asks = bool(audiences or grant_types or first_party or not serves)
        secret = None if public else self._secret()
        client = Client(
            issuer=self._issuer,
            client_id=checked_id,
            name=client_name(name),
            secret_hash=None if secret is None else hash_secret(secret),
            grant_types=grant_types_of(grant_types, public=public, first_party=first_party) if asks else (),
            audiences=audiences_of(audiences) if asks else (),
            scopes=scopes_of(scopes),
            first_party=first_party,
            origins=origins_of(origins, first_party=first_party),
            created_at=await self._store.now(),
            rotates_refresh=rotates_refresh,
            backchannel_logout_uri=logout_uri(backchannel_logout_uri),
            serves=served_of(serves, public=public),
        )
        try:
            await self._store.directory.add_client(client)
        except Conflict:
            raise Conflict(f'there is a client "{checked_id}" already') from None
        self._audit.record(EventName.CLIENT_ADDED, client_id=checked_id)
        return ClientAdded(client, secret)

    async def clients(self) -> tuple[Client, ...]:
        """Every client, by id."""
        return await self._store.directory.clients(self._issuer)

    async def rotate_secret(self, client_id: str) -> str:
        """The client's new secret; the old one is refused from now on.

        Raises NotFound, and AccountRefused for a public client, which has none.
        """
        client = await self._client(client_id)
        if client.secret_hash is None:
            raise AccountRefused("client_id", "a public client has no secret")
        secret = self._secret()
        await self._store.directory.set_client_secret(self._issuer, client.client_id, hash_secret(secret))
        self._audit.record(EventName.CLIENT_SECRET_ROTATED, client_id=client.client_id)
        return secret

    async def tell_client(self, client_id: str, uri: str | None) -> Client:
        """The client, which is told of ended sessions at ``uri`` from now on; None: nowhere.

        What it was not told yet of earlier ones goes there too. Raises NotFound, and AccountRefused for a URI
        that is none.
        """
        client = await self._client(client_id)
        changed = replace(client, backchannel_logout_uri=logout_uri(uri))
        await self._store.directory.set_backchannel_logout_uri(
            self._issuer, client.client_id, changed.backchannel_logout_uri
        )
        self._audit.record(EventName.CLIENT_CHANGED, client_id=client.client_id)
        return changed

    async def remove_client(self, client_id: str) -> int:
        """How many sessions ended with the client. Raises NotFound."""
        client = await self._client(client_id)
        ended = await self._store.directory.remove_client(self._issuer, client.client_id, timing=self._timing)
        self._audit.record(EventName.CLIENT_REMOVED, client_id=client.client_id, sessions=ended)
        return ended

    # --- sessions ----------------------------------------------------------------------------------

    async def sessions(self, *, user: str | None = None, limit: int = 100) -> tuple[SessionListed, ...]:
        """Live sessions, newest first, of one user or of all. Raises NotFound for an unknown user."""
        sub = (await self.user(user)).sub if user is not None else None
        found = await self._store.sessions.list(self._issuer, sub=sub, limit=limit)
        names: dict[Sub, str | None] = {}
        for one in {session.sub for session in found}:
            known = await self._store.directory.user(self._issuer, one)
            names[one] = known.username if known is not None else None
        return tuple(SessionListed(session, names[session.sub]) for session in found)

    async def end_session(self, rid: str) -> bool:
        """Whether this ended the session; False where it had ended before. Raises NotFound."""
        view = await self._store.sessions.read(self._issuer, Rid(rid))
        if view.session is None:
            raise NotFound(f'there is no session "{shown(rid)}"')
        ended = await self._store.sessions.end(
            self._issuer, view.session.rid, cause=EndCause.ADMIN, timing=self._timing
        )
        if ended:
            self._audit.record(EventName.SESSION_ENDED, rid=view.session.rid, cause=EndCause.ADMIN.value)
        return ended

    async def end_sessions(self, user: str) -> tuple[Rid, ...]:
        """Those of a user's sessions that this ended: all that were live. Raises NotFound."""
        found = await self.user(user)
        ended = await self._store.sessions.end_all(
            self._issuer, found.sub, cause=EndCause.ADMIN, timing=self._timing
        )
        for rid in ended:
            self._audit.record(EventName.SESSION_ENDED, rid=rid, cause=EndCause.ADMIN.value)
        return ended

    # --- parts -------------------------------------------------------------------------------------

    def _client_id(self, chosen: str | None) -> ClientId:
        if chosen is None:
            return ClientId(CLIENT_ID_PREFIX + random_id(self._entropy.token_bytes(ID_BYTES)))
        try:
            return directory.check_client_id(chosen)
        except ValueError as error:
            raise AccountRefused("client_id", str(error)) from None

    async def _client(self, client_id: str) -> Client:
        try:
            checked = directory.check_client_id(client_id)
        except ValueError:
            checked = None
        client = await self._store.directory.client(self._issuer, checked) if checked else None
        if client is None:
            raise NotFound(f'there is no client "{shown(client_id)}"')
        return client

    def _secret(self) -> str:
        return SECRET_PREFIX + base64url.encode(self._entropy.token_bytes(_SECRET_BYTES))


def hash_secret(secret: str) -> bytes:
    """What is kept of a client secret: 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def generate_password(entropy: Entropy) -> str:
    """A new password of 125 random bits, in groups that a person can read out."""
    drawn = [_ALPHABET[byte & 31] for byte in entropy.token_bytes(_GROUPS * _GROUP)]
    return "-".join("".join(drawn[at : at + _GROUP]) for at in range(0, len(drawn), _GROUP))


def check_password(password: str, *, username: str, issuer: Issuer) -> None:
    """Raise AccountRefused where ``password`` is too short, too long, or little but words known here.

    At least 15 characters and at most 1,024 bytes; every character counts, spaces too, and none is
    demanded (NIST SP 800-63B-4 s.3.1.1.2, ASVS 6.2.1, 6.2.5, 6.2.9). The words are the user's name, the
    issuer's host and ours: beside them it must have eight characters more.
    """
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise AccountRefused("password", "must be text that UTF-8 can write") from None
    if len(password) < MIN_PASSWORD:
        raise AccountRefused("password", f"must have at least {MIN_PASSWORD} characters")
    if size > MAX_PASSWORD_BYTES:
        raise AccountRefused("password", f"must have at most {MAX_PASSWORD_BYTES} bytes")
    rest = password.casefold()
    words = {username, username.partition("@")[0], urlsplit(issuer).hostname or "", "mintmark"}
    for word in sorted(words, key=len, reverse=True):
        if rest == word or len(word) >= _LONG_WORD:
            rest = rest.replace(word, "")
    if len(rest) < _BEYOND:
        raise AccountRefused(
            "password", "must not be made of the user's name, the issuer's host or the name of this software"
        )


def _username(name: str) -> str:
    try:
        return directory.normalize_username(name)
    except ValueError as error:
        raise AccountRefused("username", str(error)) from None


def _taken(username: str) -> Conflict:
    return Conflict(f'there is a user "{shown(username)}" already')
