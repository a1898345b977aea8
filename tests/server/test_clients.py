"""Who a request's credentials prove."""

import hashlib
from dataclasses import replace

import pytest

from mintmark.adapters.memory import MemoryStore
from mintmark.core.directory import Client
from mintmark.core.events import EventName
from mintmark.errors import InvalidClient
from mintmark.server.audit import Audit
from mintmark.server.clients import ClientAuthMethod, Clients, Credentials
from mintmark.system import SYSTEM_ENTROPY
from mintmark.testing.clock import FakeClock
from mintmark.testing.faults import Faults, FaultyStore
from mintmark.units import ClientId, Issuer, NumericDate

ISSUER = Issuer("https://auth.example.com")
SECRET = "s3cret"
SERVICE = Client(
    issuer=ISSUER,
    client_id=ClientId("service"),
    name="",
    secret_hash=hashlib.sha256(SECRET.encode()).digest(),
    grant_types=("client_credentials",),
    audiences=("a",),
    scopes=(),
    first_party=False,
    created_at=NumericDate(1),
)
POST = ClientAuthMethod.CLIENT_SECRET_POST
NONE = ClientAuthMethod.NONE


@pytest.fixture
async def faults() -> Faults:
    return Faults(clock=FakeClock())


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore(clock=FakeClock(), entropy=SYSTEM_ENTROPY)
    await made.open()
    return made


@pytest.fixture
async def clients(faults, store) -> Clients:
    await store.directory.add_client(SERVICE)
    public = replace(SERVICE, client_id=ClientId("public"), secret_hash=None)
    await store.directory.add_client(public)
    return Clients(ISSUER, directory=FaultyStore(store, faults).directory, audit=Audit())


@pytest.mark.parametrize(
    ("credentials", "who"),
    [
        (Credentials(POST, "service", SECRET), "service"),
        (Credentials(ClientAuthMethod.CLIENT_SECRET_BASIC, "service", SECRET), "service"),
        (Credentials(NONE, "public"), "public"),
    ],
)
async def test_right_credentials_prove_the_client(clients: Clients, credentials, who):
    """A secret proves a confidential client by either method; a public one is taken at its word."""
    assert (await clients.authenticate(credentials)).client_id == who


WRONG = [
    Credentials(POST, "service", "wrong"),
    Credentials(POST, "service", ""),
    Credentials(NONE, "service"),
    Credentials(POST, "service", SECRET + "\0"),
    Credentials(POST, "service", "\ud800"),
    Credentials(POST, "public", SECRET),
    Credentials(POST, "public", ""),
    Credentials(POST, "nobody", SECRET),
    Credentials(NONE, "nobody"),
    Credentials(POST, "usr_alice", SECRET),
    Credentials(POST, "Service", SECRET),
    Credentials(POST, "service ", SECRET),
    Credentials(POST, "service\0", SECRET),
    Credentials(POST, "\ud800", SECRET),
    Credentials(POST, "", ""),
]


@pytest.mark.parametrize("credentials", WRONG)
async def test_anything_else_is_refused_in_one_way(clients: Clients, credentials):
    """Unknown, wrong, missing, superfluous or impossible: one error with one text (TK6)."""
    with pytest.raises(InvalidClient, match=r"^client authentication failed$"):
        await clients.authenticate(credentials)
    assert clients._audit.counts[EventName.CLIENT_REFUSED] == 1


async def test_missing_secret_is_not_an_empty_one(clients: Clients, store: MemoryStore):
    """A client whose secret is the empty text must still say it."""
    nothing = hashlib.sha256(b"").digest()
    await store.directory.add_client(replace(SERVICE, client_id=ClientId("odd"), secret_hash=nothing))
    assert (await clients.authenticate(Credentials(POST, "odd", ""))).client_id == "odd"
    with pytest.raises(InvalidClient):
        await clients.authenticate(Credentials(NONE, "odd"))


async def test_request_without_a_client_is_refused(clients: Clients):
    """No credentials at all are no client."""
    with pytest.raises(InvalidClient):
        await clients.authenticate(None)


@pytest.mark.parametrize("credentials", WRONG)
async def test_refusals_do_the_same_work(clients: Clients, faults, monkeypatch, credentials):
    """One hash and one comparison of whole digests each time, and one look-up for every id that a client can
    have, whether or not one has it (TK6)."""
    done = []

    def compare(one: bytes, other: bytes) -> bool:
        done.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    with pytest.raises(InvalidClient):
        await clients.authenticate(credentials)
    assert done == [(32, 32)]
    possible = credentials.client_id in {"service", "public", "nobody", "Service"}
    assert faults.calls["directory.client"] == possible


async def test_client_of_another_issuer_is_unknown(clients: Clients):
    """The same id and secret at another issuer of the same store prove nothing (STORE-4)."""
    other = Clients(Issuer("https://other.example.com"), directory=clients._directory, audit=Audit())
    with pytest.raises(InvalidClient):
        await other.authenticate(Credentials(POST, "service", SECRET))


def test_credentials_do_not_print_their_secret():
    """A secret is in no repr, and so in no traceback or log by accident."""
    assert SECRET not in repr(Credentials(POST, "service", SECRET))
