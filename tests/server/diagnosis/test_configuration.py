"""What is said of settings: every mistake with its place and form, who may read the file, the margins."""

import dataclasses
from pathlib import Path

import pytest

from mintmark.core.timing import RULES, Timing
from mintmark.errors import ConfigurationErrors
from mintmark.server.diagnosis import configuration
from mintmark.server.diagnosis.configuration import File
from mintmark.server.diagnosis.finding import Verdict
from mintmark.server.settings import load, read
from mintmark.units import Seconds


def mistakes(document, environ=None, line=lambda _, __: 3):
    with pytest.raises(ConfigurationErrors) as caught:
        read(document, environ or {}, name="mintmark.toml", line=line)
    return configuration.of_mistakes(caught.value)


def test_every_mistake_has_its_place_and_what_belongs_there():
    """Two mistakes are two findings, each with the line, and with the form and the default of the setting."""
    first, second = mistakes({"access_ttl": 900, "isuer": "https://a.example"})
    assert first.verdict is second.verdict is Verdict.FAILED
    assert (first.subject, second.subject) == ("mintmark.toml:3", "mintmark.toml:3")
    assert "did you mean issuer?" in first.found
    assert first.fix == "remove or rename it in mintmark.toml:3"
    assert second.fix == 'change `access_ttl` in mintmark.toml:3: duration, "1s" to "1d"; by default "15m"'


def test_broken_rule_is_a_mistake_with_its_values():
    """Settings that contradict each other are told with the rule and both values."""
    (found,) = mistakes({"jwks_max_age": "20m"})
    assert 'jwks_max_age = "20m", verifier_cache = "10m"' in found.found
    assert found.fix == "change `jwks_max_age` or `verifier_cache` until it holds"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("MINTMARK_ISUER", "`unset MINTMARK_ISUER`, or rename it"),
        (
            "MINTMARK_DB_SERVICE_HOST",
            "Kubernetes sets it for a Service: put `enableServiceLinks: false` in the pod's spec",
        ),
        ("MINTMARK_WORKERS", "`unset MINTMARK_WORKERS`, or set it to whole number, 1 to 64; by default 1"),
    ],
)
def test_variable_that_is_wrong_says_how_to_be_rid_of_it(name, fix):
    """A variable that is no setting is unset or renamed; those of Kubernetes have a switch of their own."""
    (found,) = mistakes({}, {name: "many"})
    assert found.subject == "environment"
    assert found.fix == fix


def test_source_counts_where_values_came_from():
    """File, variables and defaults add up to all settings."""
    settings = read({"issuer": "https://a.example"}, {"MINTMARK_WORKERS": "2"})
    found = configuration.of_source(settings, File(Path("mintmark.toml"), 0o100600), folder=Path("/srv"))
    rest = len(settings.sources) - 2
    assert found.verdict is Verdict.OK
    assert found.found == f"1 settings in the file, 1 from variables, {rest} by default"


def test_no_file_and_no_variable_is_likely_the_wrong_folder():
    """Where everything has its default a person is told where settings are looked for."""
    found = configuration.of_source(read({}, {}), None, folder=Path("/srv/elsewhere"))
    assert found.verdict is Verdict.WARNING
    assert found.subject == "/srv/elsewhere"
    assert "mintmark init" in (found.fix or "")


def test_no_file_but_variables_is_how_containers_do_it():
    """Settings from variables alone are no reason for a warning."""
    settings = read({}, {"MINTMARK_ISSUER": "https://a.example"})
    assert configuration.of_source(settings, None, folder=Path("/")).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("mode", "password", "from_variable", "verdict"),
    [
        (0o644, False, False, Verdict.OK),
        (0o600, True, False, Verdict.OK),
        (0o644, True, False, Verdict.WARNING),
        (0o640, True, False, Verdict.WARNING),
        (0o644, True, True, Verdict.OK),
        (0o662, False, False, Verdict.WARNING),
        (0o620, False, False, Verdict.WARNING),
    ],
)
def test_only_the_owner_reads_a_password_and_changes_the_file(mode, password, from_variable, verdict):
    """A file that others may write is a warning; so is one with a password that they may read."""
    store = "postgresql://node:canary@db.example/mintmark" if password else "sqlite:///mintmark.db"
    settings = dataclasses.replace(
        read({}, {}),
        store=store,
        sources={"store": "MINTMARK_STORE" if from_variable else "mintmark.toml:2"},
    )
    found = configuration.of_mode(settings, File(Path("mintmark.toml"), 0o100000 | mode))
    assert found.verdict is verdict
    assert "canary" not in str(found)
    assert (found.fix is None) is (verdict is Verdict.OK)


@pytest.mark.parametrize("name", ["mintmark_access_ttl", "MINTMARKISSUER", "Mint_Mark_Store"])
def test_variable_that_looks_like_a_setting_is_named(name):
    """A setting under another spelling is ignored by the node, so it is worth a warning."""
    found = configuration.of_variables([name, "PATH"])
    assert found.verdict is Verdict.WARNING
    assert name in found.found


@pytest.mark.parametrize("name", ["MINTMARK_ISSUER", "mintmark_home", "MINTMARKET_URL", "STORE", "PATH"])
def test_other_variables_are_nobodys_business(name):
    """What is read, and what looks like no setting, is not mentioned."""
    assert configuration.of_variables([name]).verdict is Verdict.OK


def test_warnings_of_the_settings_name_the_setting_and_its_place():
    """What `serve` warns of is here with the setting to change."""
    (found,) = configuration.of_warnings(read({"jwks_limit": 100}, {}))
    assert found.verdict is Verdict.WARNING
    assert found.subject == "jwks_limit"
    assert found.fix == "change `jwks_limit` (mintmark.toml), or keep it knowing this"


def test_every_rule_is_told_with_its_margin():
    """Each rule of the timing has a line with both sides and what is to spare; the lead has one more."""
    *rules, lead = configuration.of_timing(Timing())
    assert [found.subject for found in rules] == [rule.formula for rule in RULES]
    assert all(" to spare" in found.found for found in rules)
    assert rules[1].found == "4h against 35m 35s: 3h 24m to spare"
    assert "15m 35s" in lead.found


def test_margin_is_the_distance_of_the_two_sides():
    """A rule that holds by nothing says so."""
    tight = Timing(jwks_max_age=Seconds(600))
    assert configuration.of_timing(tight)[0].found == "10m against 10m: 0s to spare"


@pytest.mark.parametrize(
    ("content", "fix"), [(None, "--config"), (b"issuer = ", "flat TOML"), (b"\xff", "flat TOML")]
)
def test_file_that_cannot_be_read_is_told_apart_from_one_that_cannot_be_understood(tmp_path, content, fix):
    """Who gave a wrong path is asked for the right one, and who wrote no TOML is sent to the file."""
    path = tmp_path / "mintmark.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationErrors) as caught:
        load(path, {})
    (found,) = configuration.of_mistakes(caught.value)
    assert fix in (found.fix or "")


def test_files_of_secrets_are_those_that_settings_name():
    """Each setting that reads a file is looked at; variables and commands are no files."""
    settings = read(
        {
            "seal_key": "file:/run/seal",
            "seal_key_previous": "env:OLD",
            "cluster_key": "file:/run/cluster",
            "cluster_key_also": "unmarked",
        },
        {},
    )
    assert configuration.secret_files(settings) == {
        "cluster_key": Path("/run/cluster"),
        "seal_key": Path("/run/seal"),
    }


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        (0o100600, Verdict.OK),
        (0o100440, Verdict.OK),
        (0o100644, Verdict.WARNING),
        (0o100620, Verdict.WARNING),
        ("cannot be read: Permission denied", Verdict.FAILED),
    ],
)
def test_secret_that_others_may_read_is_a_warning(mode, verdict):
    """A group may be let in to read; everybody may not, and without the file no node starts."""
    found = configuration.of_secret("seal_key", Path("/run/seal"), mode)
    assert found.verdict is verdict
    assert found.subject == "/run/seal of seal_key"
    assert verdict is Verdict.OK or found.fix
