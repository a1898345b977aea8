"""The grants: one file and one line each."""

import pkgutil
from dataclasses import dataclass, field

import pytest
from tests.http.surface import client

import mintmark.grants as package
from mintmark.core.directory import Client
from mintmark.grants import GRANTS
from mintmark.grants.grant import Granted
from mintmark.units import Seconds, Sub


@dataclass
class Recorded:
    """An issuance that notes what a grant asks of it."""

    client: Client = field(default_factory=lambda: client("service", secret="x"))
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def mint(self, sub: Sub) -> Granted:
        self.asked.append(("mint", sub))
        return Granted("token", Seconds(1), ())

    async def refresh(self, refresh_token: str) -> Granted:
        self.asked.append(("refresh", refresh_token))
        return Granted("token", Seconds(1), ())


def test_every_file_of_the_package_is_a_registered_grant():
    """Each module but ``grant`` holds one grant, and is named as its ``grant_type``."""
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"grant"}
    assert modules == set(GRANTS)
    assert all(grant.grant_type == name for name, grant in GRANTS.items())


def test_password_grant_does_not_exist():
    """Neither the password grant nor the implicit one is here, nor can be switched on (AZ5)."""
    assert not {"password", "implicit", "token"} & set(GRANTS)


@pytest.mark.parametrize(
    ("name", "parameters", "asked"),
    [
        ("client_credentials", {}, ("mint", "service")),
        ("refresh_token", {"refresh_token": "r"}, ("refresh", "r")),
    ],
)
async def test_grant_asks_for_one_thing(name, parameters, asked):
    """Each grant comes to exactly one request of the server, with what its parameters say."""
    issuance = Recorded()
    assert set(GRANTS[name].parameters) == set(parameters)
    await GRANTS[name].perform(issuance, parameters)
    assert issuance.asked == [asked]


def test_answer_does_not_print_its_tokens():
    """No token is in the repr of what a grant gives."""
    assert "secret" not in repr(Granted("secret", Seconds(1), (), refresh_token="secret"))
