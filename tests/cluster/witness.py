"""Who uses a node without pause and follows its keys: nothing that was given out may be refused.

A witness mints, reads the key set, and shows every key's oldest and newest tokens to verifiers that have been
there all along: ours, and PyJWT's client with the longest cache that the settings allow for.
"""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import httpx2
import jwt
from tests.cluster.cluster import PATIENCE
from tests.cluster.load import OUTAGE
from tests.cluster.running import Reachable, RunningNode
from tests.cluster.running import until as until_within

from mintmark import InvalidToken, Verifier, VerifierUnavailable

until = partial(until_within, patience=PATIENCE)

JWKS = "/.well-known/jwks.json"
KEPT = 4
"""Tokens of one key that are shown again and again: the first and the newest."""


def add_robot(node: RunningNode) -> str:
    """The secret of a new client that asks for tokens in its own name."""
    added = node.run(
        "--json", "clients", "add", "Robot", "--client-id", "robot", "--audience", "orders",
        "--grant", "client_credentials",
    )  # fmt: skip
    return str(json.loads(added)["client_secret"])


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def kids_at(http: httpx2.Client) -> frozenset[str]:
    """The key ids of the key set."""
    return frozenset(key["kid"] for key in http.get(JWKS).json()["keys"])


@dataclass(frozen=True)
class Token:
    """A token that was given out, and until when it is valid."""

    text: str
    kid: str
    exp: int

    @classmethod
    def of(cls, text: str) -> "Token":
        claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
        return cls(text, kid_of(text), claims["exp"])

    def is_valid(self) -> bool:
        """Whether it has not expired, with a second for the way."""
        return time.time() < self.exp - 1


class Witness:
    """One client and two verifiers of ``node``, on a thread of their own, until the block ends.

    ``cache`` is how many seconds PyJWT's client keeps a key set, and does not ask for an unknown key.
    ``jwks`` is where it reads the key set if it is not the issuer itself.
    """

    def __init__(self, node: Reachable, issuer: str, secret: str, *, cache: float, jwks: str = "") -> None:
        self._node = node
        self._issuer = issuer
        self._secret = secret
        self._sdk = Verifier(issuer, audience="orders")
        self._keys = jwt.PyJWKClient(
            jwks or f"{issuer}{JWKS}", lifespan=cache, cooldown_duration=cache, timeout=5
        )
        self._verifiers: dict[str, Callable[[Token], bool]] = {
            "SDK": self._sdk_accepts,
            "PyJWKClient": self._pyjwt_accepts,
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._tokens: dict[str, list[Token]] = {}
        self._accepted: set[tuple[str, str]] = set()
        self._early: list[tuple[str, str]] = []
        """What was refused before it was accepted for the first time: the ``kid``, and what was said."""
        self._forgotten: set[str] = set()
        self._error: BaseException | None = None
        self._rounds = 0
        self.checks: Counter[str] = Counter()
        self.minted: Counter[str] = Counter()
        """Tokens by ``kid``."""
        self.undecided = 0
        """How often nobody could say anything about a token: no key set, or no revocations."""
        self.outages = 0
        self.reads = 0
        """How often the key set was read."""
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._sdk.__enter__()
        until(self._sdk.ready, "the verifier has keys and revocations")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sdk.__exit__(None, None, None)

    # --- what tests ask ----------------------------------------------------------------------------------

    def until_accepted(self, *, other_than: frozenset[str] = frozenset()) -> str:
        """The key of a token that was minted from now on and that all verifiers accept."""
        before = self.minted.copy()

        def accepted() -> str | None:
            self._check_alive()
            for kid, count in self.minted.copy().items():
                known = all((name, kid) in self._accepted for name in self._verifiers)
                if count > before[kid] and known and kid not in other_than:
                    return kid
            return None

        found = until(accepted, "a new token was minted, and accepted by all", log=self.said)
        assert found is not None
        return found

    def until_checked(self) -> None:
        """Wait until every token that is kept was shown to every verifier once more."""
        before = self._rounds
        # The first of these may have begun before this call.
        until(lambda: self._rounds >= before + 2, "the witness goes on", log=self.said)
        self._check_alive()

    def forget(self, kid: str) -> None:
        """Look at no token of this key any more: the test brings the time forward for it."""
        self._forgotten.add(kid)
        self.until_checked()

    def check(self, unproven: frozenset[str]) -> None:
        """Nothing was wrong, where keys in ``unproven`` had to sign before verifiers could know them.

        A verifier that only caches finds such a key when its cache has run out, and not before (design 3.4).
        """
        self._check_alive()
        early = [said for kid, said in self._early if kid not in unproven]
        assert self.wrong + early == []
        assert self.checks["SDK"] > 0
        assert self.checks["PyJWKClient"] > 0

    def said(self) -> str:
        return (
            f"{self.minted.total()} tokens of {len(self.minted)} keys, {dict(self.checks)} checks, "
            f"{self.reads} key sets, {self.undecided} not judged, {self.outages} outages"
        )

    # --- the thread --------------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._node.client() as http:
                while not self._stop.wait(0.15):
                    self._mint(http)
                    self._read(http)
                    self._verify()
                    self._rounds += 1
        except BaseException as error:  # noqa: BLE001 - raised where the test asks
            self._error = error

    def _mint(self, http: httpx2.Client) -> None:
        form = {"grant_type": "client_credentials"}
        try:
            answer = http.post("/token", data=form, auth=("robot", self._secret))
        except OUTAGE:
            self.outages += 1
            return
        if answer.status_code == 503:
            self.outages += 1
            return
        if answer.status_code != 200:
            self.wrong.append(f"mint: {answer.status_code} {answer.text}")
            return
        token = Token.of(answer.json()["access_token"])
        self.minted[token.kid] += 1
        kept = self._tokens.setdefault(token.kid, [])
        kept.append(token)
        if len(kept) > KEPT:
            del kept[KEPT // 2]

    def _read(self, http: httpx2.Client) -> None:
        try:
            answer = http.get(JWKS)
        except OUTAGE:
            self.outages += 1
            return
        if answer.status_code == 503:
            self.outages += 1
            return
        self.reads += 1
        listed = {key["kid"] for key in answer.json()["keys"]}
        if not listed:
            self.wrong.append("the key set was empty")
        for kid in self._valid() - listed:
            self.wrong.append(f"{kid} left the key set while its tokens are valid")

    def _valid(self) -> set[str]:
        """The keys of tokens that are valid; others are dropped."""
        left = {kid: [t for t in kept if t.is_valid()] for kid, kept in self._tokens.items()}
        self._tokens = {kid: kept for kid, kept in left.items() if kept and kid not in self._forgotten}
        return set(self._tokens)

    def _verify(self) -> None:
        self._valid()
        for name, accepts in self._verifiers.items():
            for token in [token for kept in self._tokens.values() for token in kept]:
                self._show(name, accepts, token)

    def _show(self, name: str, accepts: Callable[[Token], bool], token: Token) -> None:
        try:
            decided = accepts(token)
        except (InvalidToken, jwt.PyJWTError) as error:
            if not token.is_valid() or token.kid in self._forgotten:
                return
            said = f"{token.kid} refused by {name}: {type(error).__name__} {getattr(error, 'code', error)}"
            if (name, token.kid) in self._accepted or name == "SDK":
                self.wrong.append(said)
            else:
                self._early.append((token.kid, said))
            return
        if decided:
            self.checks[name] += 1
            self._accepted.add((name, token.kid))
        else:
            self.undecided += 1

    def _sdk_accepts(self, token: Token) -> bool:
        with contextlib.suppress(VerifierUnavailable):
            self._sdk.verify(token.text)
            return True
        return False

    def _pyjwt_accepts(self, token: Token) -> bool:
        try:
            key = self._keys.get_signing_key_from_jwt(token.text)
        except (jwt.PyJWKClientConnectionError, OSError):
            return False
        jwt.decode(token.text, key, algorithms=["RS256", "ES256"], audience="orders", issuer=self._issuer)
        return True
