"""How the tables of several issuers are read, and which issuers cannot be served, or published, together."""

from pathlib import Path

import pytest
from tests.server.test_settings import mistakes

from mintmark.core.timing import Timing
from mintmark.errors import ConfigurationErrors
from mintmark.server.issuers import KEYS_OF_AN_ISSUER, MAX_ISSUERS, IssuerSettings
from mintmark.server.settings import Settings, describe, load, read
from mintmark.signer.keys import MAX_KEYS
from mintmark.units import Issuer

HERE = "https://auth.example.com"
THERE = "https://login.example.org"


def tables(*tables: dict[str, object]) -> Settings:
    return read({"issuers": [*tables]}, {})


def wrong(*tables: dict[str, object]) -> list[str]:
    """What is said about these tables, without the name of the file."""
    return [line.removeprefix("mintmark.toml: ") for line in mistakes({"issuers": [*tables]})]


def test_flat_file_is_one_issuer():
    """Without tables the flat keys are the one issuer."""
    settings = read({"issuer": HERE, "algorithm": "ES256", "publish": ["file:///srv/www"]}, {})
    assert settings.issuers == (
        IssuerSettings(
            issuer=Issuer(HERE),
            key_mode="own",
            algorithm="ES256",
            proof_urls=(),
            publish=("file:///srv/www",),
        ),
    )
    assert settings.only is settings.issuers[0]
    assert settings.issuer == HERE


def test_each_table_is_an_issuer_with_its_own():
    """What a table says is its issuer's, what it does not say is the default, all else is the node's."""
    settings = read(
        {
            "access_ttl": "10m",
            "issuers": [
                {"issuer": f"{HERE}/a", "algorithm": "ES256"},
                {"issuer": THERE, "proof_urls": ["http://10.0.0.5:8420"], "publish": ["file:///srv/www"]},
            ],
        },
        {},
    )
    first, second = settings.issuers
    assert (first.issuer, first.algorithm, first.key_mode, first.publish) == (f"{HERE}/a", "ES256", "own", ())
    assert (second.issuer, second.algorithm) == (THERE, "RS256")
    assert (second.proof_urls, second.publish) == (("http://10.0.0.5:8420",), ("file:///srv/www",))
    assert settings.timing.access_ttl == 600


def test_one_of_several_is_chosen_by_its_url():
    """Settings of one issuer have all that is the node's and that issuer; nobody gets one by default."""
    settings = tables({"issuer": HERE}, {"issuer": THERE, "algorithm": "ES256"})
    with pytest.raises(ValueError, match="unpack"):
        _ = settings.issuer
    one = settings.of(THERE)
    assert (one.issuer, one.only.algorithm) == (THERE, "ES256")
    assert (one.timing, one.store) == (Timing(), settings.store)
    with pytest.raises(LookupError):
        settings.of(f"{THERE}/")


def test_description_lists_every_issuer():
    """What is shown of the settings has each issuer's own values, and where they came from."""
    lines = describe(tables({"issuer": HERE}, {"issuer": THERE, "algorithm": "ES256"}))
    shown = [(line.key.name, line.value, line.source) for line in lines if line.key.of_issuer]
    assert ("issuer", f'"{HERE}"', "mintmark.toml") in shown
    assert ("algorithm", '"ES256"', "mintmark.toml") in shown
    assert sum(name == "issuer" for name, _, _ in shown) == 2
    assert sum(line.key.name == "store" for line in lines) == 1


# --- mistakes ----------------------------------------------------------------------------------


def test_mistakes_in_tables_are_shown_with_their_lines(tmp_path: Path):
    """Each mistake names the line in the very table that it is in, and what to write instead."""
    path = tmp_path / "m.toml"
    path.write_text(
        f"""\
algorithm = "ES256"   # which issuer would that be?
lease = "1m"

[[issuers]]
issuer = "{HERE}"
algoritm = "ES256"

[[ issuers ]]   # the second
issuer = "{HERE}"
access_ttl = "5m"

[["issuers"]]
algorithm = "none"

[[issuers]]
issuer = "{THERE}"
x = [ 1 ]
lease = "2m"
"""
    )
    with pytest.raises(ConfigurationErrors) as raised:
        load(path, {"MINTMARK_ISSUER": HERE, "MINTMARK_ISSUERS": HERE})
    no_variable = "`[[issuers]]` are tables, for which there is no variable"
    unclear = "it does not say which of the issuers it is about"
    at_top = "write it at the top of the file, above the first `[[issuers]]`"
    assert str(raised.value).splitlines() == [
        f"environment: MINTMARK_ISSUERS: is not a setting: {no_variable}",
        f"environment: MINTMARK_ISSUER: is for a file without `[[issuers]]`: {unclear}",
        f"{path}:1: algorithm: cannot stand beside `[[issuers]]`: write it into the table of each issuer",
        f"{path}:6: algoritm: is not a setting of an issuer; did you mean algorithm?",
        f"{path}:10: access_ttl: holds for the whole node: {at_top}",
        f"{path}:12: issuer: is missing: each table of `[[issuers]]` names its issuer",
        f'{path}:13: algorithm: must be "RS256", "PS256", "ES256" or "EdDSA", not "none"',
        f"{path}:17: x: is not a setting of an issuer",
        f"{path}:18: lease: holds for the whole node: {at_top}",
        f"{path}:9: issuer: is there twice: each issuer has one table",
    ]


@pytest.mark.parametrize("value", [[], {"issuer": HERE}, 3, "x", [HERE], [{"issuer": HERE}, 3]])
def test_issuers_that_are_no_tables_are_one_mistake(value):
    """An empty list, a table with one bracket, a list of URLs: one line that says how it is written."""
    (line,) = mistakes({"issuers": value})
    assert line.startswith("mintmark.toml: issuers: must be ")


def test_every_per_issuer_key_is_refused_beside_tables():
    """At the top or in a variable nobody could tell which issuer such a value is for."""
    flat = {"issuer": HERE, "key_mode": "own", "algorithm": "ES256", "proof_urls": [], "publish": []}
    said = mistakes({**flat, "issuers": [{"issuer": HERE}]})
    assert len(said) == len(flat)
    environ = {"MINTMARK_ALGORITHM": "ES256", "MINTMARK_PUBLISH": ""}
    assert len(mistakes({"issuers": [{"issuer": HERE}]}, environ)) == 2


def test_node_serves_no_more_issuers_than_its_signer_holds_keys_for():
    """At the worst each issuer needs a few keys at once; one more issuer than fits is refused at start."""
    assert MAX_ISSUERS * KEYS_OF_AN_ISSUER <= MAX_KEYS
    many: list[dict[str, object]] = [{"issuer": f"{HERE}/{number}"} for number in range(MAX_ISSUERS + 1)]
    assert len(tables(*many[1:]).issuers) == MAX_ISSUERS
    assert f"1 to {MAX_ISSUERS} tables" in wrong(*many)[0]


# --- two issuers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HERE, f"{HERE}/tenant"),
        (f"{HERE}/tenant", f"{HERE}/tenant/sub"),
        (f"{HERE}/a", f"{HERE}/ab"),
        (f"{HERE}/token", f"{HERE}/v1"),
        (f"{HERE}/tokens", HERE),
        (f"{HERE}/x", "https://auth.example.com:8443/y"),
        (HERE, THERE),
        ("http://127.0.0.1:8420/a", "http://localhost:8420/a"),
    ],
)
def test_issuers_that_can_be_told_apart_stand_side_by_side(one, other):
    """Another path of one host, one below another, another host: each request is for one of them."""
    assert [found.issuer for found in tables({"issuer": one}, {"issuer": other}).issuers] == [one, other]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (HERE, HERE, "is there twice"),
        (HERE, f"{HERE}/token", "/token is one of the outer issuer's own paths"),
        (HERE, f"{HERE}/v1/tenant", "/v1 is one of the outer issuer's own paths"),
        (f"{HERE}/keys", HERE, "/keys is one of the outer issuer's own paths"),
        (f"{HERE}/a", f"{HERE}/a/authorize/b", "/a/authorize is one of the outer issuer's own paths"),
        (HERE, f"{HERE}/metrics", "/metrics is one of the outer issuer's own paths"),
        (HERE, "https://auth.example.com:8443", "by its scheme or port alone"),
        ("http://localhost:1", "http://localhost:2", "by its scheme or port alone"),
        (f"{HERE}/x", f"{HERE}/.well-known/openid-configuration/y", "must have no .well-known"),
    ],
)
def test_issuers_that_cannot_be_told_apart_are_refused(one, other, said):
    """What an outer issuer answers is not shadowed by an inner one, and no request is for two."""
    (line,) = wrong({"issuer": one}, {"issuer": other})
    assert line.startswith("issuer: ")
    assert said in line


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((HERE, "file:///srv/www"), (THERE, "file:///srv/www"), "a copy of one host"),
        ((HERE, "s3://bucket/p"), (f"{THERE}/x", "s3://bucket/p/"), "a copy of one host"),
        ((f"{HERE}/x", "file:///srv/www/"), (THERE, "file:///srv/./www"), "a copy of one host"),
        ((f"{HERE}/eu", "file:///srv/www"), (THERE, "file:///srv/www/eu"), "the same names"),
        ((f"{HERE}/eu", "s3://bucket/p"), (THERE, "s3://bucket/p/eu"), "the same names"),
        ((HERE, "file:///srv/www"), (f"{HERE}/eu", "file:///srv/www"), "a folder of the other"),
    ],
)
def test_places_that_collide_are_refused(one, other, said):
    """One issuer's copies never overwrite, or stand in the way of, another's."""
    (line,) = wrong(*({"issuer": issuer, "publish": [place]} for issuer, place in (one, other)))
    assert line.startswith("publish: ")
    assert said in line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((f"{HERE}/eu", "file:///srv/www"), (f"{HERE}/us", "file:///srv/www")),
        ((HERE, "s3://bucket"), (f"{HERE}/eu", "s3://bucket")),
        ((HERE, "s3://bucket/a"), (THERE, "s3://bucket/b")),
        ((HERE, "file:///srv/a"), (THERE, "file:///srv/b")),
    ],
)
def test_places_that_do_not_collide_are_taken(one, other):
    """Issuers of one host share a bucket or a folder, and each host has a place of its own."""
    assert tables(*({"issuer": issuer, "publish": [place]} for issuer, place in (one, other))).issuers
