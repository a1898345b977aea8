"""Where a secret is read from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.server.setting import SecretForm, SecretSource, secret_source

_KIND = secret_source()


@pytest.mark.parametrize(
    ("written", "form", "target", "argv"),
    [
        ("file:/run/secrets/key", SecretForm.FILE, "/run/secrets/key", ("/run/secrets/key",)),
        ("env:CLUSTER_KEY", SecretForm.ENV, "CLUSTER_KEY", ("CLUSTER_KEY",)),
        (
            "command:/bin/pass 'a b' $HOME",
            SecretForm.COMMAND,
            "/bin/pass 'a b' $HOME",
            ("/bin/pass", "a b", "$HOME"),
        ),
    ],
)
def test_source_is_a_file_a_variable_or_a_command(written, form, target, argv):
    """It can be written back as it was, and a command is taken apart as a shell would, but by none."""
    found = _KIND.parse(written)
    assert found == SecretSource(form, target)
    assert str(found) == written
    assert found is not None
    assert found.argv == argv


def test_no_secret_is_said_in_a_word():
    """What is not configured is none."""
    assert _KIND.parse("none") is None


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("correct horse", "must say where"),
        ("file", "must say where"),
        ("file:", "must say where"),
        ("vault:/a", "must say where"),
        ("file:key", "absolute path"),
        ("command:pass", "absolute path"),
        ("command:/bin/pass 'a", "quotes"),
        ("env:A-B", "letters"),
        (3, "must be text"),
    ],
)
def test_other_source_is_refused(written, reason):
    """With a reason."""
    with pytest.raises(ValueError, match=reason):
        _KIND.parse(written)


@given(
    st.sampled_from(["", "file:", "env:-", "command:", "vault:"]),
    st.from_regex(r"[A-Z0-9]{12,40}", fullmatch=True),
)
def test_secret_in_place_of_its_source_is_not_repeated(before, secret):
    """Whoever writes the secret itself finds it in no message."""
    with pytest.raises(ValueError, match="must") as refused:
        _KIND.parse(before + secret)
    assert secret not in str(refused.value)
