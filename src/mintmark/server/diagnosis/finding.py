"""One line of a diagnosis: which check, how it went, what was looked at and found, and how to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """How a check went; stable."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something about it should be known or changed."""
    FAILED = "failed"
    """A node here would not start, not be ready, or not keep a promise."""
    SKIPPED = "skipped"
    """It could not be looked at; what was found says why."""


class Check(StrEnum):
    """What is looked at. The values are stable; each text below is the line of the documentation."""

    SETTINGS_READ = "settings.read"
    """The configuration file and the variables are read, and every mistake in them is listed."""
    SETTINGS_MODE = "settings.mode"
    """Nobody but its owner may change the file, or read it where it holds a password."""
    SETTINGS_SECRETS = "settings.secrets"
    """Files that settings take a secret from can be read by the node, and not by everybody."""
    SETTINGS_VARIABLES = "settings.variables"
    """No variable of the environment looks like a setting without being one."""
    SETTINGS_UNUSUAL = "settings.unusual"
    """A value that is allowed, but likely not what you want."""
    TIMING_RULE = "timing.rule"
    """A rule between settings of time, with its values and by how much it holds."""
    TIMING_LEAD = "timing.lead"
    """How long a key is public before it signs."""
    MACHINE_CLOCK = "machine.clock"
    """The kernel says that something keeps the wall clock right (NTP, chrony, a hypervisor)."""
    MACHINE_FILES = "machine.files"
    """A worker may open enough files: each connection is one."""
    MACHINE_UNIT = "machine.unit"
    """Where systemd runs `mintmark.service`: it gives a node that leaves as long as it may need."""
    HARDENING = "hardening"
    """One protection of the processes named, tried out in a process like them."""
    NODE_LISTEN = "node.listen"
    """The address `listen` is free, or a node of this issuer answers there."""
    NODE_READY = "node.ready"
    """The node that answers there is ready; if not, every reason that it gives."""
    STORE_REACH = "store.reach"
    """The database is there and answers, or can be made at the first start."""
    STORE_MODE = "store.mode"
    """Only its owner may read the database file: it holds hashes of passwords."""
    STORE_SPACE = "store.space"
    """The disk with the database file has room."""
    STORE_SCHEMA = "store.schema"
    """The schema is one that this version can use or bring up to date."""
    STORE_WRITE = "store.write"
    """The database takes a transaction that writes; nothing is written."""
    STORE_CLOCK = "store.clock"
    """The clock of this machine and that of the store agree within `clock_skew`."""
    STORE_TIMING = "store.timing"
    """The timing settings in the store are those of this configuration."""
    STORE_ROWS = "store.rows"
    """Every row of the ring was written by a node with this `cluster_key`."""
    STORE_NODES = "store.nodes"
    """The nodes that are live, and those that died without leaving."""
    STORE_KEYS = "store.keys"
    """A key signs, under a lease that its node renews."""
    STORE_ROTATION = "store.rotation"
    """No key signs past its time, and no new key waits for its proof too long."""
    STORE_JWKS = "store.jwks"
    """The key set has room, and is not larger than gateways take."""
    BUS_REACH = "bus.reach"
    """What `bus` names lets a process log in, hear others and announce; nothing is lost without it."""
    PUBLICATION_REACH = "publication.reach"
    """The issuer's URL and each of `proof_urls` answer with a key set."""
    PUBLICATION_KEYS = "publication.keys"
    """That key set holds every key that the store publishes."""
    PUBLICATION_CACHE = "publication.cache"
    """No cache in between keeps the key set longer than `jwks_max_age`."""
    PUBLICATION_FORM = "publication.form"
    """Nothing in between changes, compresses unasked or mislabels the key set."""
    PUBLICATION_DATE = "publication.date"
    """The clock of whoever answers agrees with this machine's."""
    PUBLICATION_DISCOVERY = "publication.discovery"
    """The discovery document names this issuer byte for byte, and its URLs."""
    PUBLICATION_STREAM = "publication.stream"
    """The first events of the revocation stream come through at once: no proxy holds them back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` is a value of :class:`Check`, or ``hardening.NAME``. ``fix`` says what to change where
    something is not right. None of it holds a secret."""

    check: str
    verdict: Verdict
    subject: str
    found: str
    fix: str | None = None


def ok(check: str, subject: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, subject, found)


def warning(check: str, subject: str, found: str, *, fix: str) -> Finding:
    """It works, but."""
    return Finding(check, Verdict.WARNING, subject, found, fix)


def failed(check: str, subject: str, found: str, *, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.FAILED, subject, found, fix)


def skipped(check: str, subject: str, why: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Verdict.SKIPPED, subject, why)


_ORDER: Final = (Verdict.FAILED, Verdict.WARNING, Verdict.OK)


def overall(findings: Iterable[Finding]) -> Verdict:
    """The worst of ``findings``; what was skipped counts for nothing."""
    found = {finding.verdict for finding in findings}
    return next((verdict for verdict in _ORDER if verdict in found), Verdict.OK)
