"""`mintmark doctor` on settings, machine and a database file, as a user runs it."""

import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command_line import PASSWORD, CommandLine, Result

from mintmark.cli.demonstration.loopback import free_ports
from mintmark.core.timing import Timing
from mintmark.core.timing_change import Agreement
from mintmark.server.agreement import encode_agreement
from mintmark.server.diagnosis.finding import Check
from mintmark.signer.hardening import Profile
from mintmark.units import ClientId, NodeId, Seconds

# Some have something to say only where there is something to look at.
RARE = {Check.HARDENING, Check.SETTINGS_SECRETS, Check.SETTINGS_UNUSUAL}
EVERY = {check.value for check in Check if check not in RARE}


@pytest.fixture
def issuer(cli: CommandLine) -> str:
    """A configuration in the folder, for an address of loopback that nobody has."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    write(cli.folder, url)
    return url


def write(folder: Path, url: str, **settings: object) -> None:
    values = {"issuer": url, "listen": url.removeprefix("http://"), **settings}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    (folder / "mintmark.toml").write_text(text)


def checks(result: Result) -> dict[str, dict[str, Any]]:
    """The checks of a run by id; of several under one id the worst."""
    worst = ("failed", "warning", "skipped", "ok")
    found: dict[str, dict[str, Any]] = {}
    for check in sorted(result.json["checks"], key=lambda check: -worst.index(check["status"])):
        found[check["id"]] = check
    return found


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_before_the_first_start_nothing_is_wrong(cli, issuer):
    """A folder with settings alone: status 0, and the warning that no node answers says to start one."""
    before = snapshot(cli.folder)
    result = cli("doctor", "--json")
    assert result.status == 0, result.out
    found = checks(result)
    assert "the first start makes it" in found["store.reach"]["found"]
    assert found["node.listen"]["status"] == "ok"
    assert found["publication.reach"]["status"] == "warning"
    assert "mintmark serve" in found["publication.reach"]["fix"]
    assert snapshot(cli.folder) == before


def test_answer_has_one_form_whatever_is_found(cli, issuer):
    """Every check is there in any case, each with the same five members; a fix exactly where one is due."""
    for settings in ({}, {"workers": 0}, {"store": "sqlite:////none/of/these.db"}):
        write(cli.folder, issuer, **settings)
        document = cli("doctor", "--json").json
        assert list(document) == ["issuer", "issuers", "status", "counts", "checks"]
        assert {check["id"] for check in document["checks"]} >= EVERY
        for check in document["checks"]:
            assert list(check) == ["id", "status", "subject", "found", "fix"]
            assert bool(check["fix"]) is (check["status"] in {"warning", "failed"}), check
        assert sum(document["counts"].values()) == len(document["checks"])


def test_every_process_of_a_node_is_tried(cli, issuer):
    """The protections of control, worker and signer are each told as on or off with a reason."""
    found = [c for c in cli("doctor", "--json").json["checks"] if c["id"].startswith("hardening.")]
    told = {profile for check in found for profile in check["subject"].split(", ")}
    assert told == {profile.value for profile in Profile}
    assert all(check["found"].startswith(("on: ", "off")) for check in found)
    assert {"hardening.landlock", "hardening.seccomp", "hardening.memory_locked"} <= {c["id"] for c in found}


def test_mistakes_are_all_told_and_hide_no_check_of_the_machine(cli, issuer):
    """Status 2; each mistake has its line; what needs settings is skipped with that reason."""
    write(cli.folder, issuer, access_ttl="15 minutes", isuer="x", jwks_max_age="20m")
    result = cli("doctor", "--json")
    assert result.status == 2
    told = [check for check in result.json["checks"] if check["status"] == "failed"]
    assert sorted(check["subject"] for check in told) == [f"mintmark.toml:{line}" for line in (3, 4, 5)]
    found = checks(result)
    assert found["hardening.seccomp"]["status"] != "skipped"
    assert found["machine.files"]["status"] != "skipped"
    assert found["store.reach"]["found"] == "the configuration has mistakes"
    assert result.json["issuer"] is None


def test_people_read_the_same_with_the_fix_below(cli, issuer):
    """The report names every finding, and below each that is not right its fix; the last line counts."""
    (cli.folder / "mintmark.db").write_bytes(b"no database at all" * 100)
    (cli.folder / "mintmark.db").chmod(0o600)
    document = cli("doctor", "--json").json
    lines = [line.rstrip() for line in cli("doctor").out.splitlines()]
    for check in document["checks"]:
        if check["status"] in {"warning", "failed"}:
            at = next(
                n for n, line in enumerate(lines) if f"{check['id']} " in line and check["found"] in line
            )
            assert lines[at].startswith(check["status"])
            assert lines[at + 1].strip() == f"fix: {check['fix']}"
    assert lines[-1].startswith("1 failed, ")


def test_file_that_is_no_database_is_a_failure_and_stays_as_it_is(cli, issuer):
    """Status 1, the rest of the store is skipped, and not a byte of the file changes."""
    path = cli.folder / "mintmark.db"
    path.write_bytes(b"no database at all" * 100)
    path.chmod(0o600)
    before = snapshot(cli.folder)
    result = cli("doctor", "--json")
    assert result.status == 1
    found = checks(result)
    assert found["store.schema"]["status"] == "failed"
    assert found["store.schema"]["found"] == "the file is not an SQLite database"
    assert found["store.keys"]["status"] == "skipped"
    assert snapshot(cli.folder) == before


def test_database_is_looked_at_and_not_changed(shop):
    """A database with rows in it is byte for byte what it was afterwards, and nothing is beside it."""
    shop.add_key("k" * 43)
    write(shop.folder, shop.settings.issuer, listen=f"127.0.0.1:{free_ports(1)[0]}")
    shop.within(lambda store: store.now())
    before = snapshot(shop.folder)
    found = checks(shop("doctor", "--json"))
    assert found["store.write"]["status"] == "ok"
    assert found["store.jwks"]["found"].startswith("1 public key,")
    assert snapshot(shop.folder) == before


def test_locked_database_is_a_failure(shop):
    """A program that holds the lock of the file is found; what can be read is told all the same."""
    write(shop.folder, f"http://127.0.0.1:{free_ports(1)[0]}")
    with contextlib.closing(sqlite3.connect(shop.folder / "mintmark.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = checks(shop("doctor", "--json"))
        other.execute("ROLLBACK")
    assert found["store.write"]["status"] == "failed"
    assert "locked by another process" in found["store.write"]["found"]
    assert found["store.nodes"]["status"] == "ok"


def test_database_of_a_newer_version_is_a_failure(shop):
    """A schema that this version cannot use is named, and not touched."""
    write(shop.folder, f"http://127.0.0.1:{free_ports(1)[0]}")
    with contextlib.closing(sqlite3.connect(shop.folder / "mintmark.db")) as other:
        other.execute("UPDATE schema_compatibility SET usable_from = '9999'")
        other.commit()
    found = checks(shop("doctor", "--json"))
    assert found["store.schema"]["status"] == "failed"
    assert "9999" in found["store.schema"]["found"]
    assert found["store.keys"]["status"] == "skipped"


def test_empty_database_gets_no_tables(cli, issuer):
    """A file of another making without any table is left to the first start."""
    path = cli.folder / "mintmark.db"
    path.touch(0o600)
    found = checks(cli("doctor", "--json"))
    assert "the first start makes the tables" in found["store.schema"]["found"]
    assert path.read_bytes() == b""


def test_timing_of_live_nodes_must_be_this_configurations(shop):
    """Beside a live node each setting that differs is named; once it is dead nothing is wrong."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    write(shop.folder, url)
    theirs = encode_agreement(Agreement(current=Timing(access_ttl=Seconds(600))))

    async def join(store):
        assert await store.keyring.swap_timing(shop.settings.issuer, expected=0, document=theirs)
        await store.keyring.beat(shop.settings.issuer, NodeId("other"), ring_generation=0)

    shop.within(join)
    found = checks(shop("doctor", "--json"))
    assert found["store.timing"]["status"] == "failed"
    assert "access_ttl is 900 here and 600 there" in found["store.timing"]["found"]
    # A node lives that has no key, and nobody answers for it.
    assert found["store.keys"]["status"] == "failed"
    assert found["publication.reach"]["status"] == "failed"

    async def leave(store):
        await store.keyring.leave(shop.settings.issuer, NodeId("other"))

    shop.within(leave)
    assert checks(shop("doctor", "--json"))["store.timing"]["status"] == "ok"


def test_files_that_others_may_open_are_warnings(shop):
    """A database that the group may read is told with the command that mends it."""
    write(shop.folder, f"http://127.0.0.1:{free_ports(1)[0]}")
    path = shop.folder / "mintmark.db"
    path.chmod(0o640)
    found = checks(shop("doctor", "--json"))["store.mode"]
    assert found["status"] == "warning"
    assert "chmod go-rwx" in found["fix"]


def test_folder_that_does_not_exist_is_a_failure(cli, issuer):
    """The fix makes the folder, and doctor does not."""
    write(cli.folder, issuer, store=f"sqlite:///{cli.folder}/none/mintmark.db")
    result = cli("doctor", "--json")
    assert result.status == 1
    assert f"mkdir -p {cli.folder}/none" in checks(result)["store.reach"]["fix"]
    assert not (cli.folder / "none").exists()


@contextlib.contextmanager
def program(address: str, says: bytes) -> Iterator[None]:
    """Something that listens at ``address`` and answers everything with ``says``."""
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("says", "found"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "another program listens here"),
        (b"SSH-2.0-x\r\n", "somebody listens here and does not answer"),
    ],
)
def test_port_of_another_program_is_a_failure(cli, issuer, says, found):
    """What answers at `listen` and is no node of ours keeps a node from starting, whatever it speaks."""
    with program(issuer.removeprefix("http://"), says):
        result = cli("doctor", "--json")
    assert result.status == 1
    check = checks(result)["node.listen"]
    assert check["found"].startswith(found)
    assert "ss -ltnp" in check["fix"]


def test_nothing_secret_is_told(shop):
    """No hash, sealed half or token of the database is in either form of the report (LG2)."""
    write(shop.folder, shop.settings.issuer, listen=f"127.0.0.1:{free_ports(1)[0]}")
    added = shop.ok("clients", "add", "Billing", "--client-id", "billing", "--audience", "orders")
    session, token = shop.add_session("ada", "shop")
    shop.add_key("k" * 43)
    issuer = shop.settings.issuer

    async def secrets(store):
        user = await store.directory.user_named(issuer, "ada")
        client = await store.directory.client(issuer, ClientId("billing"))
        return [user.password_hash, client.secret_hash.hex(), session.sealed.hex(), session.public_key.hex()]

    canaries = [PASSWORD, added["client_secret"], token, token[40:], *shop.within(secrets)]
    printed = "".join(shop("doctor", *form).out for form in ((), ("--json",)))
    assert not [canary for canary in canaries if canary in printed]


def test_each_issuer_is_looked_at(cli):
    """What is so for every issuer is told once, and what is one's with its name; --issuer names one."""
    one, other = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    listen = one.removeprefix("http://")
    tables = "".join(f'[[issuers]]\nissuer = "{one}/{name}"\n' for name in "ab")
    (cli.folder / "mintmark.toml").write_text(f'listen = "{listen}"\n{tables}')
    document = cli("doctor", "--json").json
    assert document["issuers"] == [f"{one}/a", f"{one}/b"]
    subjects = [(check["id"], check["subject"]) for check in document["checks"]]
    assert len(set(subjects)) == len(subjects)
    assert sum(check == "store.reach" for check, _ in subjects) == 1
    reached = {subject for check, subject in subjects if check == "publication.reach"}
    assert reached == {f"{one}/{name}/.well-known/jwks.json" for name in ("a", "b")}
    alone = cli("doctor", "--json", "--issuer", f"{one}/b").json
    assert (alone["issuer"], alone["issuers"]) == (f"{one}/b", [f"{one}/b"])
    wrong = cli("doctor", "--issuer", other)
    assert wrong.status == 2
    assert f"--issuer: is none of those configured: {one}/a, {one}/b" in wrong.err
