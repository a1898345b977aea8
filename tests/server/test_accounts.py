"""Users, clients and sessions as their administrator sees them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.adapters.memory import MemoryStore
from mintmark.core import directory, sessions
from mintmark.core.events import EventName
from mintmark.core.sessions import SessionStart
from mintmark.core.timing import Timing
from mintmark.errors import Conflict, NotFound
from mintmark.ports.passwords import PasswordCheck
from mintmark.server.account_value import AccountRefused
from mintmark.server.accounts import (
    MAX_PASSWORD_BYTES,
    Accounts,
    check_password,
    generate_password,
    hash_secret,
)
from mintmark.server.audit import Audit
from mintmark.server.clients import ClientAuthMethod, Clients, Credentials
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.units import ClientId, Issuer, Rid

ISSUER = Issuer("https://auth.example.com")
PASSWORD = "correct horse battery"


@dataclass
class Office:
    """Accounts of one issuer, and what stands behind them."""

    clock: FakeClock = field(default_factory=FakeClock)
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock, entropy=SYSTEM_ENTROPY)
        self.passwords = Argon2Hasher(workers=1, queue=8)
        self.audit = Audit(actor="operator")
        self.accounts = Accounts(
            ISSUER,
            store=self.store,
            passwords=self.passwords,
            entropy=SYSTEM_ENTROPY,
            timing=self.timing,
            audit=self.audit,
        )

    async def log_in(self, name: str, client_id: str) -> Rid:
        """A session of the user, begun through the client."""
        user = await self.accounts.user(name)
        begin = SessionStart(
            issuer=ISSUER, sub=user.sub, client_id=ClientId(client_id), scope=(), audience=("orders",)
        )
        session, _ = sessions.start(
            begin,
            rid=SYSTEM_ENTROPY.token_bytes(16),
            seed=SYSTEM_ENTROPY.token_bytes(32),
            timing=self.timing,
            now=self.clock.now(),
        )
        assert await self.store.sessions.start(session, user=user)
        return session.rid


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    """An issuer without any account."""
    made = Office()
    await made.store.open()
    yield made
    await made.store.close()
    made.passwords.close()


# --- users ---------------------------------------------------------------------------------------


async def test_user_is_found_under_every_spelling_of_the_name(office):
    """A name is one name in whatever case and Unicode form, and a second user cannot have it."""
    user = await office.accounts.add_user("  Zoë ", PASSWORD, scopes=("orders:read", "orders:read"))
    assert (user.username, user.scopes) == ("zoë", ("orders:read",))
    assert (await office.accounts.user("ZOE\u0308")).sub == user.sub
    with pytest.raises(Conflict, match='there is a user "zoë" already'):
        await office.accounts.add_user("zoe\u0308", PASSWORD)


async def test_of_two_that_add_one_name_one_wins(office):
    """Two who add the same name at once: one user, and one Conflict."""
    outcomes = await asyncio.gather(
        *(office.accounts.add_user("ada", PASSWORD) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "User"]
    assert len(await office.accounts.users()) == 1


async def test_subjects_are_random_and_no_client_id(office):
    """A user's ``sub`` is 128 random bits behind a prefix that no client_id may have (TC5)."""
    first = await office.accounts.add_user("ada", PASSWORD)
    second = await office.accounts.add_user("bob", PASSWORD)
    assert first.sub != second.sub
    assert len(first.sub.removeprefix("usr_")) == 22
    with pytest.raises(AccountRefused, match="client_id"):
        await office.accounts.add_client("x", audiences=("orders",), client_id=first.sub)


async def test_password_is_hashed_whole_with_argon2id(office):
    """Spaces at both ends and the last of 1,024 bytes count, and what is kept is Argon2id (PW2, PW5)."""
    long = "  " + "ä" * 510 + "  "
    assert len(long.encode()) == MAX_PASSWORD_BYTES
    user = await office.accounts.add_user("ada", long)
    assert user.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await office.passwords.verify(user.password_hash, long) is PasswordCheck.RIGHT
    for other in (long[:-1], long[1:], long.strip()):
        assert await office.passwords.verify(user.password_hash, other) is PasswordCheck.WRONG


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("fourteen chars", "at least 15"),
        ("ä" * 14, "at least 15"),
        ("a" * 1025, "at most 1024 bytes"),
        ("ä" * 513, "at most 1024 bytes"),
        ("unwritable \udcff\udcff\udcff\udcff", "UTF-8"),
        ("ada.lovelace@example.org", "must not be made of"),
        ("Ada.Lovelace@Example.Org!", "must not be made of"),
        ("ada.lovelace1234", "must not be made of"),
        ("auth.example.com", "must not be made of"),
        ("MintmarkMINTMARK", "must not be made of"),
        ("mintmark1234567", "must not be made of"),
    ],
)
def test_weak_password_is_refused(password, reason):
    """Too short, too long, or a name that an attacker tries first with a little added (PW1, PW2, PW4)."""
    with pytest.raises(AccountRefused, match=reason) as raised:
        check_password(password, username="ada.lovelace@example.org", issuer=ISSUER)
    assert raised.value.field == "password"
    assert password not in str(raised.value)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "aaaaaaaaaaaaaaa",
        "               ",
        "äöüßäöüßäöüßäöü",
        "😀" * 15,
        "a" * 1024,
        "mintmark tastes like dust",
        "123456789012345",
    ],
)
def test_no_composition_is_demanded(password):
    """Any 15 characters will do, of whatever kind, counted by code point (PW2, PW3)."""
    check_password(password, username="ada", issuer=ISSUER)


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=15, max_size=200))
def test_any_text_without_known_words_is_a_password(password):
    """Whatever text of 15 characters in which none of the known words occurs is taken (PW3)."""
    if not any(word in password.casefold() for word in ("mintmark", "auth.example.com", "lovelace")):
        check_password(password, username="lovelace", issuer=ISSUER)


def test_generated_passwords_are_random_and_pass():
    """A generated password has 125 random bits, is its own, and would be taken."""
    made = {generate_password(SYSTEM_ENTROPY) for _ in range(100)}
    assert len(made) == 100
    assert set("".join(made)) == set("abcdefghijkmnpqrstuvwxyz23456789-")
    for password in made:
        assert len(password) == 29
        check_password(password, username="ada", issuer=ISSUER)


async def test_disabling_ends_every_session_once(office):
    """A disabled user has no session left; disabling again ends none and is no event."""
    await office.accounts.add_user("ada", PASSWORD)
    await office.accounts.add_client("shop", audiences=("orders",), client_id="shop")
    for _ in range(2):
        await office.log_in("ada", "shop")
    assert (await office.accounts.disable_user("ADA"))[1] == 2
    user, ended = await office.accounts.disable_user("ada")
    assert ended == 0
    assert user.disabled_at is not None
    assert office.audit.counts[EventName.USER_DISABLED] == 1
    assert await office.accounts.sessions(user="ada") == ()


async def test_changed_password_ends_every_session(office):
    """After a change the old password is wrong, the new one right, and nobody is logged in."""
    await office.accounts.add_user("ada", PASSWORD)
    await office.accounts.add_client("shop", audiences=("orders",), client_id="shop")
    await office.log_in("ada", "shop")
    with pytest.raises(AccountRefused):
        await office.accounts.set_password("ada", "too short")
    assert len(await office.accounts.sessions()) == 1
    assert (await office.accounts.set_password("ada", "another good one"))[1] == 1
    kept = (await office.accounts.user("ada")).password_hash
    assert await office.passwords.verify(kept, PASSWORD) is PasswordCheck.WRONG
    assert await office.passwords.verify(kept, "another good one") is PasswordCheck.RIGHT
    assert await office.accounts.sessions() == ()


@pytest.mark.parametrize("name", ["", "   ", "bell\a", "x" * 255, "line\nbreak", "turn\u202e"])
async def test_name_that_is_none_is_refused(office, name):
    """Empty, too long or with control characters: refused when added, not found when looked for."""
    with pytest.raises(AccountRefused, match="username"):
        await office.accounts.add_user(name, PASSWORD)
    with pytest.raises(NotFound) as raised:
        await office.accounts.user(name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("scope", ['a"b', "a\\b", "a\nb", "ä", "x" * 129])
async def test_scope_that_is_none_is_refused(office, scope):
    """A scope has the characters of RFC 6749 s.3.3 and no others."""
    with pytest.raises(AccountRefused, match="scope"):
        await office.accounts.add_user("ada", PASSWORD, scopes=(scope,))
    with pytest.raises(AccountRefused, match="scope"):
        await office.accounts.add_client("shop", audiences=("orders",), scopes=(scope,))


# --- clients -------------------------------------------------------------------------------------


async def test_secret_authenticates_and_is_kept_as_a_digest(office):
    """What add_client shows is what the token endpoint takes, and the store has its SHA-256 alone."""
    added = await office.accounts.add_client("Billing", audiences=("orders", "stock", "orders"))
    assert added.client.grant_types == ("client_credentials",)
    assert added.client.audiences == ("orders", "stock")
    assert added.client.client_id.startswith("mmc_")
    assert added.secret.startswith("mms_")
    assert len(added.secret) == 4 + 43
    assert added.client.secret_hash == hashlib.sha256(added.secret.encode()).digest()
    assert hash_secret(added.secret) == added.client.secret_hash
    found = await _authenticate(office, added.client.client_id, added.secret)
    assert found.client_id == added.client.client_id


async def test_rotated_secret_replaces_the_old_one(office):
    """After a rotation the new secret is taken, and the old one is refused."""
    added = await office.accounts.add_client("Billing", audiences=("orders",), client_id="billing")
    fresh = await office.accounts.rotate_secret("billing")
    assert fresh != added.secret
    assert (await _authenticate(office, "billing", fresh)).client_id == "billing"
    with pytest.raises(Exception, match="client authentication failed"):
        await _authenticate(office, "billing", added.secret)


async def test_public_client_has_no_secret_and_gets_none(office):
    """A public client cannot be made confidential by a rotation that nobody meant."""
    added = await office.accounts.add_client("Shop", audiences=("a",), public=True, first_party=True)
    assert (added.secret, added.client.secret_hash) == (None, None)
    assert added.client.grant_types == ("refresh_token",)
    with pytest.raises(AccountRefused, match="public client has no secret"):
        await office.accounts.rotate_secret(added.client.client_id)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"audiences": ()}, "audience"),
        ({"audiences": ("",)}, "audience"),
        ({"audiences": ("*",)}, "audience"),
        ({"audiences": ("https://*.example.com",)}, "audience"),
        ({"audiences": ("two words",)}, "audience"),
        ({"audiences": ("ä",)}, "audience"),
        ({"audiences": ("a\n",)}, "audience"),
        ({"audiences": ("x" * 256,)}, "audience"),
        ({"name": ""}, "client_name"),
        ({"name": " "}, "client_name"),
        ({"name": "turn\u202e"}, "client_name"),
        ({"name": "x" * 101}, "client_name"),
        ({"client_id": "usr_x"}, "client_id"),
        ({"client_id": "-x"}, "client_id"),
        ({"client_id": "a b"}, "client_id"),
        ({"grant_types": ("password",)}, "grant_type"),
        ({"grant_types": ("client_credentials",), "public": True}, "grant_type"),
        ({"public": True}, "grant_type"),
    ],
)
async def test_client_that_cannot_be_is_refused(office, options, field):
    """What no client may have is refused by name, and nothing is added (TC2: no wildcard audience)."""
    arguments = {"name": "Shop", "audiences": ("orders",)} | options
    with pytest.raises(AccountRefused) as raised:
        await office.accounts.add_client(arguments.pop("name"), **arguments)
    assert raised.value.field == field
    assert str(raised.value).isprintable()
    assert await office.accounts.clients() == ()


async def test_client_id_is_taken_once(office):
    """A second client of one id is a Conflict, and the first keeps its secret."""
    added = await office.accounts.add_client("Billing", audiences=("orders",), client_id="billing")
    with pytest.raises(Conflict, match='there is a client "billing" already'):
        await office.accounts.add_client("Other", audiences=("orders",), client_id="billing")
    assert (await _authenticate(office, "billing", added.secret)).name == "Billing"


async def test_removed_client_takes_its_sessions_with_it(office):
    """Sessions that a removed client began are over; those of other clients live on."""
    await office.accounts.add_user("ada", PASSWORD)
    for name in ("shop", "desk"):
        await office.accounts.add_client(name, audiences=("orders",), client_id=name)
    await office.log_in("ada", "shop")
    left = await office.log_in("ada", "desk")
    assert await office.accounts.remove_client("shop") == 1
    assert [one.session.rid for one in await office.accounts.sessions()] == [left]
    with pytest.raises(NotFound):
        await office.accounts.remove_client("shop")
    with pytest.raises(NotFound):
        await office.accounts.rotate_secret("no such client")


# --- sessions ------------------------------------------------------------------------------------


async def test_sessions_are_listed_with_their_user(office):
    """Newest first, of one user or of all, each with the name of its user."""
    await office.accounts.add_client("shop", audiences=("orders",), client_id="shop")
    rids = {}
    for name in ("ada", "bob"):
        await office.accounts.add_user(name, PASSWORD)
        rids[name] = await office.log_in(name, "shop")
        office.clock.advance(1)
    listed = await office.accounts.sessions()
    assert [(one.session.rid, one.username) for one in listed] == [(rids["bob"], "bob"), (rids["ada"], "ada")]
    assert [one.username for one in await office.accounts.sessions(user="ada")] == ["ada"]
    assert len(await office.accounts.sessions(limit=1)) == 1
    with pytest.raises(NotFound):
        await office.accounts.sessions(user="nobody")


async def test_ending_a_session_twice_ends_it_once(office):
    """The first call ends it, the second says that it had ended; a rid that never was is NotFound."""
    await office.accounts.add_user("ada", PASSWORD)
    await office.accounts.add_client("shop", audiences=("orders",), client_id="shop")
    rid = await office.log_in("ada", "shop")
    other = await office.log_in("ada", "shop")
    assert await office.accounts.end_session(rid) is True
    assert await office.accounts.end_session(rid) is False
    assert await office.accounts.end_sessions("ada") == (other,)
    assert office.audit.counts[EventName.SESSION_ENDED] == 2
    with pytest.raises(NotFound):
        await office.accounts.end_session("no such session")


# --- what is said about it -----------------------------------------------------------------------


async def test_every_change_is_logged_once_with_its_actor_and_no_secret(office):
    """Each change is one event that says who made it, and none holds a password or secret (LG1, LG2)."""
    name = "lovelace@example.org"
    with capture_logs() as lines:
        await office.accounts.add_user(name, PASSWORD)
        added = await office.accounts.add_client("shop", audiences=("orders",), client_id="shop")
        rid = await office.log_in(name, "shop")
        secret = await office.accounts.rotate_secret("shop")
        await office.accounts.end_session(rid)
        await office.accounts.set_password(name, "another good one")
        await office.accounts.disable_user(name)
        await office.accounts.remove_client("shop")
    assert [line["event"] for line in lines] == [
        "user.added",
        "client.added",
        "client_secret.rotated",
        "session.ended",
        "password.changed",
        "user.disabled",
        "client.removed",
    ]
    assert {line["actor"] for line in lines} == {"operator"}
    user = await office.accounts.user(name)
    for canary in (PASSWORD, "another good one", added.secret, secret, user.password_hash, name):
        assert canary not in str(lines)


async def _authenticate(office: Office, client_id: str, secret: str) -> directory.Client:
    clients = Clients(ISSUER, directory=office.store.directory, audit=office.audit)
    return await clients.authenticate(
        Credentials(ClientAuthMethod.CLIENT_SECRET_BASIC, client_id=client_id, secret=secret)
    )
