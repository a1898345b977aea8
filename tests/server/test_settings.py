"""How settings are read, and what is said about mistakes."""

import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import timing
from mintmark.core.timing import CROWDED_JWKS, RULES, Timing, broken_rules
from mintmark.errors import ConfigurationError, ConfigurationErrors
from mintmark.server.issuers import IssuerSettings
from mintmark.server.option import KEYS
from mintmark.server.setting import Address, is_loopback
from mintmark.server.settings import OTHER_VARIABLES, Settings, describe, load, read, written

NAMES = [key.name for key in KEYS]


def mistakes(document=None, environ=None) -> list[str]:
    with pytest.raises(ConfigurationErrors) as raised:
        read(document or {}, environ or {})
    return str(raised.value).splitlines()


def test_nothing_configured_is_one_node_on_sqlite():
    """Without a file and without variables every value is the default, and nothing is warned about."""
    settings = read({}, {})
    assert settings.issuer == "http://127.0.0.1:8420"
    assert settings.store == "sqlite:///mintmark.db"
    assert settings.listen == Address("127.0.0.1", 8420)
    assert settings.timing == Timing()
    assert settings.warnings == ()
    assert set(settings.sources.values()) == {"default"}


def test_every_setting_is_a_field_and_every_field_a_setting():
    """Settings, IssuerSettings and Timing together hold exactly the keys of the table."""
    held = {field.name for field in fields(Settings)} - {"issuers", "timing", "warnings", "sources"}
    own = {field.name for field in fields(IssuerSettings)}
    assert held | own | set(timing.NAMES) == set(NAMES)
    assert own == {key.name for key in KEYS if key.of_issuer}
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_every_setting_says_what_it_means(key):
    """A key has a meaning that is a sentence, and a default that its own form accepts."""
    assert key.meaning.endswith(".")
    assert key.kind.label
    key.kind.parse(key.default)


def test_description_can_be_written_back_as_a_file():
    """What describe prints, written into a file, gives the same settings."""
    first = read(
        {
            "signers": 2,
            "trusted_proxies": ["10.0.0.0/8"],
            "listen": "[::1]:80",
            "session_ttl": "2000h",
            "cluster_key": r'command:/bin/pass "a\ b"',
            "seal_key": "env:SEAL_KEY",
            "hsm_allow": ["/var/lib/softhsm", "network"],
        },
        {},
    )
    text = "\n".join(f"{line.key.name} = {line.value}" for line in describe(first))
    second = read(tomllib.loads(text), {})
    assert describe(second) == tuple(
        type(line)(line.key, line.value, "mintmark.toml") for line in describe(first)
    )
    assert second.timing == first.timing


# --- where values come from --------------------------------------------------------------------


def test_variable_overrides_file_and_file_overrides_default(tmp_path: Path):
    """A variable wins over the file, the file over the default, and each says where it came from."""
    path = tmp_path / "mintmark.toml"
    path.write_text('# comment\nworkers = 2\naccess_ttl = "10m"\n')
    settings = load(path, {"MINTMARK_WORKERS": "3"})
    assert (settings.workers, settings.timing.access_ttl) == (3, 600)
    assert settings.sources["workers"] == "MINTMARK_WORKERS"
    assert settings.sources["access_ttl"] == f"{path}:3"
    assert settings.sources["signers"] == "default"


@pytest.mark.parametrize(
    ("key", "file", "variable"),
    [
        ("workers", 4, "4"),
        ("rsa_bits", 3072, "3072"),
        ("access_ttl", "90s", "90s"),
        ("algorithm", "ES256", "ES256"),
        ("listen", "0.0.0.0:80", "0.0.0.0:80"),
        (
            "proof_urls",
            ["http://10.0.0.5:8420", "https://a.example"],
            "http://10.0.0.5:8420, https://a.example",
        ),
        ("proof_urls", [], ""),
        ("publish", ["file:///srv/www", "s3://bucket/auth"], "file:///srv/www, s3://bucket/auth"),
        ("issuer", "https://auth.example.com/eu", "https://auth.example.com/eu"),
        ("cluster_key_also", "none", "none"),
    ],
)
def test_variable_means_what_the_file_means(key, file, variable):
    """The text of a variable gives the same value as the file's own form."""
    from_file, from_variable = read({key: file}, {}), read({}, {f"MINTMARK_{key.upper()}": variable})
    assert {line.key.name: line.value for line in describe(from_file)} == {
        line.key.name: line.value for line in describe(from_variable)
    }


def test_file_is_found_by_argument_then_variable_then_working_directory(tmp_path, monkeypatch):
    """An explicit path wins over MINTMARK_CONFIG, which wins over ./mintmark.toml."""
    for name, workers in (("a", 2), ("b", 3), ("mintmark", 4)):
        (tmp_path / f"{name}.toml").write_text(f"workers = {workers}")
    monkeypatch.chdir(tmp_path)
    environ = {"MINTMARK_CONFIG": str(tmp_path / "b.toml")}
    assert load(tmp_path / "a.toml", environ).workers == 2
    assert load(None, environ).workers == 3
    assert load(None, {}).workers == 4
    (tmp_path / "mintmark.toml").unlink()
    assert load(None, {}).workers == 1


def test_relative_store_lies_beside_the_file(tmp_path: Path):
    """A relative path starts at the file's folder, wherever it was given; an absolute one stays."""
    path = tmp_path / "mintmark.toml"
    path.write_text('store = "sqlite:///state/m.db"')
    assert load(path, {}).store == f"sqlite:///{tmp_path}/state/m.db"
    assert load(path, {"MINTMARK_STORE": "sqlite:///n.db"}).store == f"sqlite:///{tmp_path}/n.db"
    assert load(path, {"MINTMARK_STORE": "sqlite:////srv/n.db"}).store == "sqlite:////srv/n.db"
    assert read({}, {}).store == "sqlite:///mintmark.db"


# --- mistakes ----------------------------------------------------------------------------------


def test_all_mistakes_are_shown_with_the_place_to_mend_them(tmp_path: Path):
    """One line for each mistake: file and line or environment, the key, the reason."""
    path = tmp_path / "m.toml"
    path.write_text('acess_ttl = "15m"\nlease = 120\n\n"workers" = true\n[keys]\nlease = 1\n')
    with pytest.raises(ConfigurationErrors) as raised:
        load(
            path, {"MINTMARK_SIGNER": "2", "MINTMARK_LOG_LEVEL": "loud", "MINTMARK_VECTORS": "x", "PATH": "x"}
        )
    assert str(raised.value).splitlines() == [
        f"{path}:1: acess_ttl: is not a setting; did you mean access_ttl?",
        f"{path}: keys: is a table, but settings are flat: write them at the top of the file, without one",
        "environment: MINTMARK_SIGNER: is not a setting; did you mean MINTMARK_SIGNERS?",
        f"{path}:4: workers: must be a whole number, not true or false",
        f'{path}:2: lease: has no unit: write text like "30s", "15m" or "4h"',
        'environment: MINTMARK_LOG_LEVEL: must be "debug", "info", "warning" or "error", not "loud"',
    ]
    assert [mistake.key for mistake in raised.value.mistakes[:2]] == ["acess_ttl", "keys"]
    assert isinstance(raised.value, ConfigurationError)
    assert raised.value.key == "acess_ttl"


def test_a_mistake_in_the_file_is_shown_though_a_variable_overrides_it():
    """Overriding a wrong value does not hide that it is wrong."""
    assert mistakes({"workers": 0}, {"MINTMARK_WORKERS": "2"}) == [
        "mintmark.toml: workers: must be from 1 to 64"
    ]


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"jwks_max_age": "11m"}, "jwks_max_age: jwks_max_age <= verifier_cache"),
        ({"access_ttl": "4h"}, "access_ttl: rotate_every > ("),
        ({"rotate_every": "20m"}, "rotate_every: rotate_every > ("),
        ({"feed_bound": "3m"}, "feed_bound: lease + 2 x clock_skew + 10s <= feed_bound"),
        ({"signers": 9}, "signers: 3 x signers <= jwks_limit"),
        ({"jwks_limit": 23}, "jwks_limit: 3 x signers <= jwks_limit"),
        ({"session_idle": "100d"}, "session_idle: session_idle <= session_ttl"),
    ],
)
def test_contradiction_names_the_setting_that_was_written(document, named):
    """F12: the first setting of a broken rule that is not a default is the one to mend."""
    (line,) = mistakes(document)
    assert line.startswith(f"mintmark.toml: {named}")
    ((name, value),) = document.items()
    assert f"{name} = {written(value)}" in line


def test_second_key_of_the_cluster_needs_a_first():
    """Alone it would protect nothing, and whoever wrote it believes that it does."""
    with pytest.raises(ConfigurationErrors, match="cluster_key_also: needs a `cluster_key`"):
        read({"cluster_key_also": "unmarked"}, {})
    both = read({"cluster_key": "file:/key", "cluster_key_also": "unmarked"}, {})
    assert (str(both.cluster_key), both.cluster_key_also) == ("file:/key", "unmarked")


def test_contradiction_of_a_variable_names_the_variable():
    """A rule that a variable breaks is reported under the variable's name."""
    (line,) = mistakes({}, {"MINTMARK_SIGNERS": "9"})
    assert line.startswith("environment: MINTMARK_SIGNERS: 3 x signers")


def test_rule_over_a_value_that_could_not_be_read_is_not_judged():
    """A wrong lease is reported once, and not as a contradiction of its default as well."""
    (line,) = mistakes({"lease": "soon", "feed_bound": "1m"})
    assert line.startswith("mintmark.toml: lease: 'soon' is not a duration: write a whole number and a unit")


@pytest.mark.parametrize(
    ("written_as", "reason"),
    [
        ("auth.example.com", "must be an absolute URL"),
        ("ftp://auth.example.com", "must be an absolute URL"),
        ("https://", "must be an absolute URL"),
        ("HTTPS://auth.example.com", "must be an absolute URL"),
        ("https://auth.example.com/", "must not end with a slash"),
        ("https://auth.example.com?", "must have no query and no fragment"),
        ("https://auth.example.com#a", "must have no query and no fragment"),
        ("https://u:geheim@auth.example.com", "must not hold a user or a password"),
        ("https://Auth.example.com", "lower case"),
        ("https://auth.example.com:443", "must leave the default port out"),
        ("https://auth.example.com:0443", "a plain port"),
        ("https://auth.example.com:", "a plain port"),
        ("https://auth.example.com:99999", "is not a URL"),
        ("https://auth.example.com/a/../b", "must have a plain path"),
        ("https://auth.example.com//b", "must have a plain path"),
        ("https://auth.example.com/%61", "must be plain ASCII"),
        ("https://auth.example.com /a", "must be plain ASCII"),
        ("https://auth.example.com\n", "must not hold control characters"),
        ("https://ä.example.com", "must be plain ASCII"),
        ("https://-a.example.com", "has no usable host"),
        ("https://1.2.3", "has no usable host"),
        ("https://[::1", "is not a URL"),
        ("http://auth.example.com", "must be https"),
        ("http://localhost.example.com", "must be https"),
        ("http://10.0.0.1", "must be https"),
        ("", "must not be empty"),
        ("https://" + "a" * 3000, "is too long"),
    ],
)
def test_issuer_has_one_spelling(written_as, reason):
    """JM4: an issuer that could be written in another way, or read in clear, is refused, and not echoed."""
    (line,) = mistakes({"issuer": written_as})
    assert reason in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    "issuer",
    [
        "https://auth.example.com",
        "https://auth.example.com:8443/realms/eu-1",
        "http://localhost:8420",
        "http://127.0.0.1:8420",
        "http://[::1]:8420",
        "https://192.0.2.7",
        "https://auth",
    ],
)
def test_issuer_is_kept_byte_for_byte(issuer):
    """JM4: what was configured is the issuer, unchanged."""
    assert read({"issuer": issuer}, {}).issuer == issuer


def test_proof_url_may_be_plain_http_inside():
    """A node may read its key back over the internal network, which the issuer's own URL never is."""
    assert read({"proof_urls": ["http://10.0.0.5:8420"]}, {}).only.proof_urls == ("http://10.0.0.5:8420",)
    (line,) = mistakes({"proof_urls": ["http://10.0.0.5:8420", "10.0.0.6"]})
    assert "item 2 must be an absolute URL" in line


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/srv/www", "must be a URL like"),
        ("https://bucket.example.com", "must be a URL like"),
        ("file://srv/www", "must name a folder by its whole path"),
        ("file:///srv/www?mode=0644", "must name a folder by its whole path"),
        ("s3://", "must name a bucket and a plain prefix"),
        ("s3://bucket/../other", "must name a bucket and a plain prefix"),
        ("s3://AKID:hunter2@bucket/auth", "must name a bucket and a plain prefix"),
    ],
)
def test_place_to_publish_to_is_a_folder_or_a_bucket(place, reason):
    """Any other place is refused with the form that it should have, and without a password that it holds."""
    (line,) = mistakes({"publish": ["file:///srv/www", place]})
    assert f"item 2 {reason}" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("memory:", "must be a URL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///file:x?mode=memory", "must name a file"),
        ("sqlite:///m.db?mode=ro", "must name a file"),
        ("postgresql:geheim", "must name a server and a database"),
        ("postgresql://u:geheim@db", "must name a server and a database"),
        ("postgresql://u:geheim@db/", "must name a server and a database"),
        ("postgresql://u:geheim@db/a/b", "must name a server and a database"),
        ("postgresql://u:geheim@/m", "must name a server and a database"),
        ("postgresql://u:geheim@a,b/m", "must name one server"),
        ("postgresql://u:geheim@db:http/m", "is not a URL"),
        ("postgresql://u:ge/heim:geheim@db/m", "is not a URL"),
        ("postgresql://u:geheim@db/m%ff", "is not a URL"),
        ("postgresql://u@db/m?password=geheim", "after the question mark only"),
        ("postgresql://u:geheim@db/m?sslmode=geheim", "has an sslmode that is not"),
        ("postgresql://u:geheim@db/m?geheim", "is not a URL"),
        ("postgresql://u:pass#geheim@db/m", "is not a URL"),
        ("postgresql://u:pass@geheim@db/m", "is not a URL"),
        ("mysql://u:geheim@db/m", "must be a URL like"),
        ("mintmark.db", "must be a URL like"),
    ],
)
def test_store_is_a_file_that_survives(store, reason):
    """I7: no store is accepted that forgets; the URL, which may hold a password, is not repeated."""
    (line,) = mistakes({"store": store})
    assert reason in line
    assert "geheim" not in line


def test_url_in_the_wrong_place_is_not_repeated():
    """A setting that takes a few words refuses the URL of a database without the password in it."""
    (line,) = mistakes({"log_level": "postgresql://u:geheim@db/m"})
    assert "must be" in line
    assert "not a URL" in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    "bus",
    [
        "none",
        "redis://db",
        "redis://:geheim@db:6379/eu-1",
        "rediss://u:ge%40heim@[::1]/1?sslrootcert=/etc/ca.pem&sslcert=/etc/c.pem&sslkey=/etc/k.pem",
        "nats://u:geheim@db.example.com:4222",
        "tls://:geheim@db",
        "postgresql://u:geheim@db/m",
    ],
)
def test_bus_may_be_a_server_of_its_own(bus):
    """Every scheme of the registry of buses is a value of ``bus``, and shown without its password."""
    settings = read({"bus": bus}, {})
    assert settings.bus == bus
    (shown,) = [found.value for found in describe(settings) if found.key.name == "bus"]
    assert "geheim" not in shown
    assert "heim" not in shown
    assert ("***" in shown) == ("@" in bus)


@pytest.mark.parametrize(
    ("bus", "reason"),
    [
        ("redis", 'must be "none" or a URL like "redis://host"'),
        ("rabbitmq://u:geheim@db", 'must be "none" or a URL like "redis://host"'),
        ("sqlite:///geheim.db", 'must be "none" or a URL like "redis://host"'),
        ("redis:db", "must name a server"),
        ("redis://", "must name a server"),
        ("redis://u:geheim@/1", "must name a server"),
        ("redis://u:geheim@db:0", "must name a server"),
        ("redis://u:geheim@db:port", "is not a URL"),
        ("redis://u:geheim@a,b", "must name one server"),
        ("redis://u:pass@geheim@db", "is not a URL"),
        ("redis://u:pass/geheim@db", "is not a URL"),
        ("redis://u:12/geheim@db", "name of letters, digits"),
        ("redis://u:pass#geheim@db", "is not a URL"),
        ("redis://db/a#geheim", "must have no fragment"),
        ("redis://u:ge%ffheim@db", "is not a URL"),
        ("nats://geheim@db", "has a user without a password"),
        ("redis://db/a/b", "name of letters, digits"),
        ("redis://db/a.b", "name of letters, digits"),
        ("redis://db?sslrootcert=/etc/ca.pem", "with rediss:// and tls://"),
        ("rediss://db?ssl_cert_reqs=none", "with rediss:// and tls://"),
        ("rediss://db?sslrootcert=ca.pem", "must name files by their absolute paths"),
        ("tls://db?sslkey=/etc/k.pem", "has an sslkey without an sslcert"),
        ("postgresql://u:geheim@db", "must name a server and a database"),
    ],
)
def test_bus_that_is_none_says_why(bus, reason):
    """A URL that no bus is made of is a mistake with a reason, which does not repeat what may be secret."""
    (line,) = mistakes({"bus": bus})
    assert reason in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    "store",
    [
        "postgresql://db/m",
        "postgresql://u:geheim@db/m",
        "postgresql://u:ge%2Fheim@db.example.com:5432/m?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://u:geheim@[::1]:5432/m",
        "postgresql://u:gehe:im%40geheim@db/m",
        "postgresql://u@/m?host=/run/postgresql",
    ],
)
def test_password_of_the_store_is_not_shown(store):
    """A PostgreSQL URL is taken as it is written, and shown without the password in it."""
    settings = read({"store": store}, {})
    assert settings.store == store
    (shown,) = [found.value for found in describe(settings) if found.key.name == "store"]
    assert "heim" not in shown
    assert shown.startswith('"postgresql://')


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("listen", "8420", "must be a host and a port"),
        ("listen", "::1:8420", "must be a host and a port"),
        ("listen", "127.0.0.1:0", "has a port outside"),
        ("listen", "127.0.0.1:70000", "has a port outside"),
        ("listen", "[127.0.0.1]:80", "must be a host and a port"),
        ("listen", "a b:80", "must be a host and a port"),
        ("algorithm", "HS256", "must be"),
        ("algorithm", "none", "must be"),
        ("algorithm", "rs256", "must be"),
        ("rsa_bits", 1024, "must be 2048 or 3072"),
        ("rsa_bits", "2048", "must be a whole number, not text"),
        ("key_mode", "central", "must be"),
        ("workers", 1.0, "must be a whole number, not a number"),
        ("spare", "yes", "must be true or false"),
        ("spare", 1, "must be true or false"),
        ("access_ttl", 900, "has no unit"),
        ("access_ttl", "0s", 'must be from "1s" to "1d"'),
        ("access_ttl", "25h", 'must be from "1s" to "1d"'),
        ("access_ttl", "9" * 50 + "s", "is too long for a duration"),
        ("clock_skew", "31s", 'must be from "1s" to "30s"'),
        ("trusted_proxies", "10.0.0.1", "must be a list, not text"),
        ("trusted_proxies", ["*"], "must be an address or a network"),
        ("trusted_proxies", ["0.0.0.0/0"], "must not be every address"),
        ("trusted_proxies", ["10.0.0.1/8"], "must be an address or a network"),
    ],
)
def test_wrong_value_is_refused_with_its_reason(key, value, reason):
    """KY1, TC4: weak keys, trusting everybody, and lifetimes past the maximum are refused."""
    (line,) = mistakes({key: value})
    assert line.startswith(f"mintmark.toml: {key}: ")
    assert reason in line


@pytest.mark.parametrize(
    "name", ["config.toml", "folder", "bad.toml", "latin.toml", "deep.toml", "nul\0.toml"]
)
def test_unreadable_file_is_one_clear_mistake(tmp_path: Path, name):
    """A file that is missing, a folder, no TOML, no UTF-8 or a bomb stops the start with one line."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.toml").write_text("workers = \n")
    (tmp_path / "latin.toml").write_bytes(b'issuer = "\xe4"')
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigurationErrors) as raised:
        load(tmp_path / name, {})
    (line,) = str(raised.value).splitlines()
    assert ": configuration file: " in line


def test_crowded_key_set_is_a_warning():
    """A limit of sixteen keys or more, once somebody chose it, is worth a sentence and no refusal."""
    assert read({"jwks_limit": CROWDED_JWKS, "signers": 5}, {}).warnings
    assert not read({"jwks_limit": CROWDED_JWKS - 1, "signers": 5}, {}).warnings


def test_loopback_is_this_machine_alone():
    """Names that merely look local are not loopback."""
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(
        map(is_loopback, ["localhost.example", "127.0.0.1.example", "0.0.0.0", "10.0.0.1", "::", ""])
    )


# --- properties --------------------------------------------------------------------------------


def outcome(attempt: Callable[[], Settings]) -> Settings | str:
    """The settings, or the text of the mistakes, which is one printable line for each."""
    try:
        return attempt()
    except ConfigurationErrors as errors:
        lines = str(errors).split("\n")
        sound = len(lines) == len(errors.mistakes) > 0 and all(map(str.isprintable, lines))
        return str(errors) if sound else pytest.fail(repr(lines))


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_LIKELY = st.sampled_from(
    ["15m", "1s", "400d", "https://a.example", "own", "none", "1", "10.0.0.0/8", 3, 2048, []]
)
_KEY = st.sampled_from(NAMES) | st.text()


@given(
    st.dictionaries(_KEY, _JUNK | _LIKELY),
    st.dictionaries(_KEY | st.sampled_from([*OTHER_VARIABLES]), st.text()),
)
def test_junk_gives_settings_or_mistakes_and_nothing_else(document, variables):
    """Whatever file and variables hold, the answer is sound settings or one printable line a mistake."""
    environ = {f"MINTMARK_{name.upper()}": value for name, value in variables.items()}
    settings = outcome(lambda: read(document, environ))
    assert isinstance(settings, str) or broken_rules(settings.timing) == ()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_file_gives_settings_or_mistakes_and_nothing_else(tmp_path_factory, content):
    """Whatever bytes the file holds, the answer is settings or mistakes."""
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes(content)
    outcome(lambda: load(path, {}))


@given(st.fixed_dictionaries({name: st.integers(1, 30) for name in {n for r in RULES for n in r.settings}}))
def test_settings_never_break_a_rule(values):
    """No combination of single values gets past the rules between them."""
    document = {
        name: value if name in {"signers", "jwks_limit"} else f"{value}m" for name, value in values.items()
    }
    settings = outcome(lambda: read(document, {}))
    assert isinstance(settings, str) or broken_rules(settings.timing) == ()


def test_variables_of_a_kubernetes_service_are_no_mistakes():
    """A Service called mintmark puts variables with our prefix into every pod beside it."""
    environ = {
        "MINTMARK_SERVICE_HOST": "10.0.0.1",
        "MINTMARK_SERVICE_PORT": "8420",
        "MINTMARK_SERVICE_PORT_HTTP": "8420",
        "MINTMARK_PORT": "tcp://10.0.0.1:8420",
        "MINTMARK_PORT_8420_TCP": "tcp://10.0.0.1:8420",
        "MINTMARK_PORT_8420_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, environ).issuer == load(None, {}).issuer
    with pytest.raises(ConfigurationErrors):
        load(None, {"MINTMARK_PORTS": "8420"})


def test_flag_is_written_as_a_word_in_a_variable():
    """``MINTMARK_SPARE`` takes true and false, in these letters alone."""
    assert [load(None, {"MINTMARK_SPARE": word}).spare for word in ("true", "false")] == [True, False]
    with pytest.raises(ConfigurationErrors, match="MINTMARK_SPARE: must be true or false"):
        load(None, {"MINTMARK_SPARE": "True"})
