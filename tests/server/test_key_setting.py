"""Settings about who keeps keys: server.key_setting."""

import pytest

from mintmark.errors import ConfigurationErrors
from mintmark.server.settings import describe, read

HSM = {"hsm_module": "/usr/lib/module.so", "hsm_token": "auth", "hsm_pin": "file:/run/pin"}
SEALED = {"seal_key": "file:/run/key"}


def mistakes(document: dict[str, object], **environ: str) -> list[str]:
    with pytest.raises(ConfigurationErrors) as wrong:
        read(document, environ)
    return str(wrong.value).splitlines()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"key_mode": "shared"}, 'key_mode: "shared" needs `seal_key`'),
        ({"key_mode": "shared", **HSM}, 'key_mode: "shared" needs `seal_key`'),
        ({"key_mode": "hsm"}, 'key_mode: "hsm" needs `hsm_module`, `hsm_token` and `hsm_pin`'),
        ({"key_mode": "hsm", "algorithm": "EdDSA", **HSM}, 'algorithm: "EdDSA" does not go with'),
        ({"hsm_module": "/usr/lib/module.so"}, "hsm_module: needs `hsm_token` and `hsm_pin` beside it"),
        ({"hsm_pin": "env:PIN", "hsm_token": "t"}, "hsm_token: needs `hsm_module` beside it"),
        ({"seal_key_previous": "env:OLD"}, "seal_key_previous: needs a `seal_key` beside it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_refused(document, said):
    """A mode without what it needs does not start, and the line names the settings to mend."""
    (line,) = mistakes(document)
    assert line.startswith(f"mintmark.toml: {said}")


def test_mistake_of_a_table_is_said_where_the_tables_are():
    """With several issuers, the one that needs what the node was not given stops the start too."""
    tables = [
        {"issuer": "https://a.example", "key_mode": "shared"},
        {"issuer": "https://b.example", "key_mode": "hsm", "algorithm": "EdDSA"},
    ]
    (line,) = mistakes({"issuers": tables, **HSM, "hsm_allow": ["/x"]}, MINTMARK_SEAL_KEY="none")[:1]
    assert "EdDSA" in line
    settings = read({"issuers": tables[:1], **SEALED, **HSM}, {})
    assert settings.issuers[0].key_mode == "shared"


def test_modes_that_have_what_they_need_are_taken():
    """Every mode starts with its settings, and what others need may be there for a switch to come."""
    for mode, given in (("own", {}), ("own", {**HSM, **SEALED}), ("shared", SEALED), ("hsm", HSM)):
        settings = read({"key_mode": mode, **given}, {})
        assert settings.only.key_mode == mode
    shared = read({"key_mode": "shared", "algorithm": "EdDSA", **SEALED, "seal_key_previous": "env:OLD"}, {})
    assert str(shared.seal_key_previous) == "env:OLD"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hsm_module", "libsofthsm2.so", "must name a file by its absolute path"),
        ("hsm_module", 1, "must name a file by its absolute path"),
        ("hsm_token", "", "must be a token's label"),
        ("hsm_token", "a\nb", "must be a token's label"),
        ("hsm_token", "ä" * 17, "at most 32 bytes"),
        ("hsm_environment", ["SOFTHSM2_CONF"], "must be a variable and its value"),
        ("hsm_environment", ["1=2"], "must be a variable and its value"),
        ("hsm_environment", ["A="], "must be a variable and its value"),
        ("hsm_allow", ["var/lib"], "must be an absolute path"),
        ("hsm_allow", ["internet"], "must be an absolute path"),
        ("hsm_pin", "1234", "must say where the secret is"),
        ("seal_key", "0123456789abcdef", "must say where the secret is"),
    ],
)
def test_wrong_form_is_refused_with_its_reason(key, value, reason):
    """LG2: each form has its sentence, and none repeats what may be the secret itself."""
    (line,) = mistakes({key: value})
    assert line.startswith(f"mintmark.toml: {key}: ")
    assert reason in line
    assert "1234" not in line
    assert "abcdef" not in line


def test_description_shows_where_secrets_are_and_what_is_not_there():
    """LG2: settings list prints sources, which are no secrets, and "none" for what was not given."""
    lines = {line.key.name: line.value for line in describe(read({**SEALED}, {}))}
    assert lines["seal_key"] == '"file:/run/key"'
    assert (lines["hsm_module"], lines["hsm_token"], lines["hsm_pin"]) == ('"none"',) * 3
    assert lines["hsm_allow"] == "[]"
