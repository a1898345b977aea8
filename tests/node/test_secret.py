"""Secrets are read from where the settings say, and shown nowhere."""

import sys

import pytest

from mintmark.core.mark import MarkKey, Marks
from mintmark.core.sealing import Pepper
from mintmark.errors import ConfigurationError
from mintmark.node.secret import ClusterKeys, read_cluster_keys, read_feed_tokens, read_marks, read_secret
from mintmark.server.setting import SecretForm, SecretSource
from mintmark.server.settings import read

_SECRET = "correct horse battery staple"


def command(program: str) -> SecretSource:
    return SecretSource(SecretForm.COMMAND, f"{sys.executable} -c '{program}'")


async def test_secret_is_the_same_from_each_source(tmp_path):
    """File, variable and command: the newline at the end is none of it, what is within is."""
    file = tmp_path / "key"
    file.write_text(f" {_SECRET} \n")
    sources = (
        SecretSource(SecretForm.FILE, str(file)),
        SecretSource(SecretForm.ENV, "KEY"),
        command(f'print(" {_SECRET} ")'),
    )
    for source in sources:
        found = await read_secret(source, setting="cluster_key", environ={"KEY": f" {_SECRET} "})
        assert found == f" {_SECRET} ".encode()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SecretSource(SecretForm.FILE, "/nowhere/key"), "no such file"),
        (SecretSource(SecretForm.ENV, "NOT_THERE"), "no such variable"),
        (SecretSource(SecretForm.COMMAND, "/nowhere/pass"), "no such file"),
        (command("import sys; sys.exit(3)"), "status 3"),
        (command("pass"), "is empty"),
        (command('print("x" * 70_000)'), "longer than"),
    ],
)
async def test_secret_that_cannot_be_read_names_the_setting(source, reason):
    """And where it should have been."""
    with pytest.raises(ConfigurationError, match=reason) as refused:
        await read_secret(source, setting="cluster_key", environ={})
    assert refused.value.key == "cluster_key"
    assert str(source) in str(refused.value)


async def test_cluster_keys_are_what_the_settings_say(tmp_path, monkeypatch):
    """None without a secret; and with one those of a second too, or what was written without any.

    While that is taken, nodes without the secret may run, so no session is sealed with it yet.
    """
    monkeypatch.setenv("ONE", _SECRET)
    monkeypatch.setenv("TWO", _SECRET[::-1])
    one, two = (MarkKey.from_bytes(secret.encode()) for secret in (_SECRET, _SECRET[::-1]))
    first, second = (Pepper.derive(secret.encode()) for secret in (_SECRET, _SECRET[::-1]))
    given = {
        (): ClusterKeys(),
        (("cluster_key", "env:ONE"),): ClusterKeys(Marks(key=one), Pepper(key=first)),
        (("cluster_key", "env:ONE"), ("cluster_key_also", "env:TWO")): ClusterKeys(
            Marks(key=one, also=(two,)), Pepper(key=first, also=(second,))
        ),
        (("cluster_key", "env:ONE"), ("cluster_key_also", "unmarked")): ClusterKeys(
            Marks(key=one, unmarked=True), Pepper(also=(first,))
        ),
    }
    for document, keys in given.items():
        settings = read(dict(document), {}, folder=tmp_path)
        assert await read_cluster_keys(settings) == keys
        assert await read_marks(settings) == keys.marks


async def test_command_of_the_cluster_key_sees_no_secret_that_a_variable_holds(tmp_path, monkeypatch):
    """Nor does it see its predecessor; what it needs to ask a vault it gets."""
    monkeypatch.setenv("TWO", _SECRET[::-1])
    monkeypatch.setenv("SEAL", "canary")
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.com")
    document = {
        "cluster_key": f"command:/bin/sh -c 'env > {tmp_path}/seen; echo {_SECRET}'",
        "cluster_key_also": "env:TWO",
        "seal_key": "env:SEAL",
    }
    marks = await read_marks(read(document, {}, folder=tmp_path))
    assert marks.key == MarkKey.from_bytes(_SECRET.encode())
    seen = (tmp_path / "seen").read_text()
    assert "VAULT_ADDR=https://vault.example.com" in seen
    assert "canary" not in seen
    assert _SECRET[::-1] not in seen


async def test_short_secret_is_refused_and_not_repeated(tmp_path, monkeypatch):
    """What could be guessed is no key."""
    monkeypatch.setenv("SHORT", "hunter2")
    with pytest.raises(ConfigurationError, match="16 bytes") as refused:
        await read_marks(read({"cluster_key": "env:SHORT"}, {}, folder=tmp_path))
    assert "hunter2" not in str(refused.value)


def settings_of(path, content: bytes):
    """Settings whose feed token is in a file."""
    path.write_bytes(content)
    return read({"feed_token": f"file:{path}"}, {})


async def test_feed_tokens_are_the_lines_of_their_source(tmp_path):
    """One a line, so that a second one can be good while it replaces the first; none without the setting."""
    assert await read_feed_tokens(read({}, {})) == ()
    content = b"  first-token-0123456\r\n\n\tsecond~token/of+16==\n"
    found = await read_feed_tokens(settings_of(tmp_path / "token", content))
    assert found == ("first-token-0123456", "second~token/of+16==")


@pytest.mark.parametrize(
    "content",
    [b"short", b"sixteen letters!", b"first-token-0123456\n\xff" * 2, b"\n \n", b"x" * 5000, b"=" * 20],
)
async def test_feed_token_that_no_header_can_carry_stops_the_start(tmp_path, content):
    """The error names the setting and the source, and repeats nothing."""
    with pytest.raises(ConfigurationError, match="feed_token") as refused:
        await read_feed_tokens(settings_of(tmp_path / "token", content))
    assert content.decode("latin-1").strip()[:9] not in str(refused.value) or not content.strip()
