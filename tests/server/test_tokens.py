"""What is done around every grant, so that none can forget it."""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import pytest
from tests.http.surface import SECRET, Surface, client, surface

from mintmark.core import jws, strict_json
from mintmark.errors import (
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from mintmark.grants.grant import Grant, Granted, Issuance
from mintmark.server import tokens as module
from mintmark.server.clients import ClientAuthMethod, Credentials
from mintmark.server.tokens import wish
from mintmark.units import Sub

GOOD = Credentials(ClientAuthMethod.CLIENT_SECRET_POST, "probe", SECRET)
PUBLIC = Credentials(ClientAuthMethod.NONE, "public-probe")


class Careless:
    """A grant that checks nothing at all: it gives whoever reaches it a token for whomever he names."""

    def __init__(self) -> None:
        self.reached: list[Mapping[str, str]] = []
        self.grant = Grant(
            grant_type="careless", perform=self.perform, parameters=("who",), confidential_only=True
        )

    async def perform(self, issuance: Issuance, parameters: Mapping[str, str]) -> Granted:
        self.reached.append(parameters)
        return await issuance.mint(Sub(parameters["who"]))


@pytest.fixture
def careless(monkeypatch) -> Careless:
    made = Careless()
    monkeypatch.setattr(module, "GRANTS", MappingProxyType({"careless": made.grant}))
    return made


@pytest.fixture
async def node() -> AsyncIterator[Surface]:
    async with surface() as running:
        directory = running.store.directory
        await directory.add_client(client("probe", secret=SECRET, grant_types=("careless",)))
        await directory.add_client(client("public-probe", grant_types=("careless",)))
        await directory.add_client(client("other", secret=SECRET, grant_types=("something",)))
        await directory.add_client(client("lost", secret=SECRET, grant_types=("careless",), audiences=()))
        yield running


ASKED = {"grant_type": "careless", "who": "someone"}


@pytest.mark.parametrize(
    ("credentials", "parameters", "error"),
    [
        (None, ASKED, InvalidClient),
        (Credentials(ClientAuthMethod.CLIENT_SECRET_POST, "probe", "wrong"), ASKED, InvalidClient),
        (Credentials(ClientAuthMethod.CLIENT_SECRET_POST, "probe", "wrong"), {}, InvalidClient),
        (GOOD, {}, InvalidRequest),
        (GOOD, {"grant_type": "other"}, UnsupportedGrantType),
        (Credentials(ClientAuthMethod.CLIENT_SECRET_POST, "other", SECRET), ASKED, UnauthorizedClient),
        (PUBLIC, ASKED, UnauthorizedClient),
        (GOOD, {"grant_type": "careless"}, InvalidRequest),
        (GOOD, ASKED | {"scope": "\t"}, InvalidScope),
        (GOOD, ASKED | {"scope": " "}, InvalidScope),
        (Credentials(ClientAuthMethod.CLIENT_SECRET_POST, "lost", SECRET), ASKED, InvalidTarget),
    ],
)
async def test_careless_grant_is_not_even_reached(node: Surface, careless, credentials, parameters, error):
    """What is wrong with authentication, registration or parameters never gets to a grant (TK9)."""
    with pytest.raises(error):
        await node.services.tokens.grant(credentials, parameters)
    assert careless.reached == []


@pytest.mark.parametrize(
    ("parameters", "audience", "error"),
    [(ASKED | {"scope": "admin"}, (), InvalidScope), (ASKED, ("payments",), InvalidTarget)],
)
async def test_careless_grant_cannot_widen(node: Surface, careless, parameters, audience, error):
    """Whatever a grant asks to be minted stays within the client's registration."""
    with pytest.raises(error):
        await node.services.tokens.grant(GOOD, parameters, audience=audience)


async def test_grant_sees_only_its_own_parameters(node: Surface, careless):
    """A grant gets the parameters that it names, so it cannot read a secret that is none of its business."""
    parameters = ASKED | {"client_secret": SECRET, "more": "1"}
    granted = await node.services.tokens.grant(GOOD, parameters)
    assert careless.reached == [{"who": "someone"}]
    claims = strict_json.decode(jws.parse(granted.access_token).payload)
    assert isinstance(claims, dict)
    assert (claims["sub"], claims["client_id"], claims["aud"]) == ("someone", "probe", "orders")


def test_wish_tells_nothing_from_something():
    """A missing scope is the default; one that lists nothing is a mistake."""
    assert wish(None, ()) == module.Wish(scope=None, audience=None)
    assert wish("a b a", ("x",)) == module.Wish(scope=("a", "b"), audience=("x",))
    with pytest.raises(InvalidScope):
        wish("  ", ())
