"""Every setting there is: its name, form, default and meaning. The reference is generated from this table."""

from dataclasses import dataclass
from typing import Any, Final

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.core.timing import Timing
from mintmark.server.key_setting import assignment, module_path, reachable, token_label
from mintmark.server.setting import (
    AUTO,
    NONE,
    OFF,
    Kind,
    address,
    auto_or,
    bus_url,
    choice,
    duration,
    flag,
    list_of,
    named_or,
    network,
    number_of,
    place_url,
    secret_source,
    store_url,
    url,
    whole,
    word_or,
)
from mintmark.units import format_duration

PREFIX: Final = "MINTMARK_"
UNMARKED: Final = "unmarked"
"""Written where rows without a mark are taken."""


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its name in the file, form, default as it would be written there, and meaning."""

    name: str
    kind: Kind[Any]
    default: object
    meaning: str
    of_issuer: bool = False
    """Whether each table of ``[[issuers]]`` may set it; all others are the node's."""

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return PREFIX + self.name.upper()


_TIMING: Final = Timing()


def _span(name: str, low: str, high: str, meaning: str) -> Key:
    return Key(name, duration(low, high), format_duration(getattr(_TIMING, name)), meaning)


KEYS: Final[tuple[Key, ...]] = (
    Key(
        "issuer",
        url("https URL (http for loopback)", plain_http=False),
        "http://127.0.0.1:8420",
        "The issuer: `iss` of every token and the URL that verifiers are given, compared byte for byte.",
        of_issuer=True,
    ),
    Key(
        "store",
        store_url(),
        "sqlite:///mintmark.db",
        "The database: a file that the nodes of one machine share, or a database of PostgreSQL. The path of "
        "a file starts at the folder of the configuration file, or at the working directory where there is "
        "none; `sqlite:////srv/mintmark.db` is absolute. A password is better kept in the variable.",
    ),
    Key(
        "cluster_key",
        secret_source(),
        "none",
        "Where a secret is read that all nodes share, of at least 16 bytes: a file, a variable, or what a "
        "command prints. With it whoever can write the database, and no more, can add no signing key, revive "
        "none and put himself in no node's place: rows that were written without it are ignored. And whoever "
        "has a backup and a spent refresh token of its time opens no session with them.",
    ),
    Key(
        "cluster_key_also",
        word_or(UNMARKED, secret_source()),
        "none",
        "A second `cluster_key` whose rows are taken too, while one replaces another; or `unmarked`, for "
        "rows that were written without any, while the first is introduced. Take it away once every node has "
        "the same `cluster_key`; a second one `session_idle` later: it opens sessions that were idle.",
    ),
    Key(
        "feed_token",
        secret_source(),
        NONE,
        "Where the tokens are read, one a line, of which the revocation feed asks for one. Verifiers get it "
        "as `feed_token`. Without it the feed is everybody's: it names sessions by random numbers, and "
        "nobody. The same on all nodes.",
    ),
    Key(
        "bus",
        bus_url(),
        NONE,
        "What wakes other processes up when something changes. With `none` it is what the store brings. "
        "Redis needs the extra `redis`, NATS the extra `nats`. `name` is the cluster's, where several share "
        "a server. TLS is `rediss://` and `tls://`, with `?sslrootcert=/path`, `sslcert` and `sslkey`. A "
        "password is better kept in the variable; without a user, as a token of NATS is, it is `:password@`.",
    ),
    Key("listen", address(), "127.0.0.1:8420", "Where the public endpoints listen."),
    Key("workers", whole(1, 64), 1, "HTTP worker processes."),
    Key(
        "trusted_proxies",
        list_of(network()),
        [],
        "Reverse proxies whose `X-Forwarded-*` headers are believed; those of all others are ignored.",
    ),
    Key(
        "key_mode",
        choice(*KeyMode),
        "own",
        "Who holds signing keys. With `own` each node makes its own and keeps it in memory. With `shared` "
        "all nodes sign with one key, which the store has sealed under `seal_key`. With `hsm` all nodes sign "
        "with one key that never leaves the token of `hsm_module`. What the store says goes before this: "
        "`mintmark keys switch` changes it.",
        of_issuer=True,
    ),
    Key(
        "seal_key",
        secret_source(),
        NONE,
        "Where the key-encryption key of shared keys is read from: 32 random bytes, or text of their base64 "
        "or hex. The same on every node, and never in the store.",
    ),
    Key(
        "seal_key_previous",
        secret_source(),
        NONE,
        "The `seal_key` that was, while it is being replaced: it opens what it sealed and seals nothing new.",
    ),
    Key(
        "hsm_module",
        module_path(),
        NONE,
        "The PKCS#11 module of the token that keeps keys: a shared library, like "
        "`/usr/lib/softhsm/libsofthsm2.so`. Needs the extra `hsm`.",
    ),
    Key("hsm_token", token_label(), NONE, "The label of the token."),
    Key(
        "hsm_pin",
        secret_source(),
        NONE,
        "Where the user's PIN of the token is read from. One that is refused is not tried again before a "
        "restart, because tokens lock.",
    ),
    Key(
        "hsm_environment",
        list_of(assignment()),
        [],
        "Variables for the module, which sees nothing else of the environment. No place for secrets: they "
        "are on the signer's command line, which every user of the machine can read.",
    ),
    Key(
        "hsm_allow",
        list_of(reachable()),
        [],
        "Files and folders that the module reads and writes while it works, and `network` where the token is "
        "reached through sockets. The signer's sandbox keeps everything else closed.",
    ),
    Key(
        "algorithm",
        choice(*Algorithm),
        "RS256",
        "What keys sign with. RS256 is read by every verifier; about half of them refuse EdDSA.",
        of_issuer=True,
    ),
    Key("rsa_bits", number_of(2048, 3072), 2048, "Size of RSA keys; RS256 and PS256 only."),
    Key(
        "proof_urls",
        list_of(url("http(s) URL", plain_http=True)),
        [],
        "Where a node reads its key back before it signs, if it cannot reach the issuer's URL itself: base "
        "URLs, to which `/.well-known/jwks.json` is added.",
        of_issuer=True,
    ),
    Key(
        "cold_start",
        choice("peer", "wait"),
        "peer",
        "What a node does that has no key that may sign. With `peer` a live node that has one signs what it "
        "mints, so it is ready at once. With `wait` it mints nothing and is not ready, but answers what "
        "verifiers ask for. The same on all nodes.",
    ),
    Key(
        "spare",
        flag(),
        False,
        "Keep a successor ready past its lead, so that `keys rotate` and `keys revoke` act at once. It takes "
        "the place that a key set reserves for a key that comes, for all of the time.",
    ),
    Key(
        "cluster_listen",
        named_or(address(), AUTO, OFF),
        AUTO,
        "Where other nodes ask this one to sign, over TLS with certificates that nodes make at start. `auto` "
        "is a free port: on loopback with SQLite, and with PostgreSQL on the address through which this "
        "machine reaches it. With `off` this node signs for no other.",
    ),
    Key(
        "cluster_address",
        named_or(address(), AUTO),
        AUTO,
        "What other nodes are told of it, where it is not what they can reach: behind a port mapping, say.",
    ),
    Key(
        "handover",
        auto_or(duration("0s", "7d")),
        AUTO,
        "How long a node that was told to leave goes on signing, at the most, while others live and none of "
        "them signs with a key that has been public for the lead. `auto` is the lead and 60 s.",
    ),
    Key(
        "publish",
        list_of(place_url()),
        [],
        "Folders and buckets that get copies of the key set, of each key and of the discovery document, for "
        "a web server or a CDN. A key signs only once it was read back from each of them. Buckets take their "
        "credentials, region and endpoint from the environment: `AWS_ACCESS_KEY_ID` and its like.",
        of_issuer=True,
    ),
    _span("access_ttl", "1s", "1d", "The longest life of an access token."),
    _span("rotate_every", "1s", "365d", "How long a key is meant to sign."),
    _span(
        "verifier_cache",
        "1s",
        "1d",
        "The longest that any verifier of yours keeps a key set, whatever its headers say.",
    ),
    _span(
        "jwks_max_age", "1s", "1d", "`max-age` of the key set: the longest that an HTTP cache keeps a copy."
    ),
    _span("propagation", "1s", "5m", "Lag of the store and of publication to allow for."),
    _span(
        "clock_skew",
        "1s",
        "30s",
        "How far clocks of nodes may differ; a node further off does not mint. Verifiers allow 60 s for two.",
    ),
    _span("lease", "5s", "1h", "How long a node may sign without renewing its lease in the store."),
    _span(
        "feed_bound",
        "5s",
        "1d",
        "How long a verifier may be without the revocation feed before it counts as cut off.",
    ),
    Key("signers", whole(1, 1000), _TIMING.signers, "The most nodes that sign with keys of their own."),
    Key(
        "jwks_limit",
        whole(3, 3000),
        _TIMING.jwks_limit,
        "The most public keys of an issuer. Some gateways stop at 10, at 8 KiB, at 50 or at 100 keys.",
    ),
    _span(
        "refresh_grace", "1s", "5m", "How long a refresh that is repeated gets the same refresh token again."
    ),
    _span(
        "refresh_retry",
        "1s",
        "7d",
        "How long a refresh token may be presented again if its successor was never used, because the "
        "answer may have been lost.",
    ),
    _span("session_idle", "1m", "365d", "A session that was not refreshed for this long is over."),
    _span("session_ttl", "1m", "400d", "A session this old is over, however busy it is."),
    Key("hash_workers", whole(1, 64), 2, "Threads that hash passwords, in each worker process."),
    Key(
        "hash_queue",
        whole(1, 10_000),
        64,
        "Passwords that may wait for such a thread; further log-ins are answered with 503.",
    ),
    Key("log_level", choice("debug", "info", "warning", "error"), "info", "The least level that is logged."),
    Key(
        "log_format",
        choice("auto", "json", "console"),
        "auto",
        "Form of log lines; `auto` is `console` on a terminal and `json` elsewhere.",
    ),
)
"""Every setting, in the order of the reference."""
