"""Every token that clients are given is shown to every verifier, at once and again while it is valid."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Self

import httpx2
import jwt
from tests.cluster.load import Load
from tests.interop.verifier import Said, Verdict, Verifier

AGAIN_EVERY = 5.0
"""Seconds after which the older tokens that were kept are shown again."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token with what its issuer says of it."""

    text: str = field(repr=False)
    kid: str
    exp: int

    @classmethod
    def of(cls, text: str) -> Self:
        claims = jwt.decode(text, options={"verify_signature": False})
        return cls(text, str(jwt.get_unverified_header(text)["kid"]), int(claims["exp"]))


class Watch:
    """One verifier on a thread of its own, so that none waits for another that fetches keys."""

    def __init__(self, name: str, verify: Verifier) -> None:
        self.name = name
        self.verify = verify
        self.checks = 0
        self.unasked: Counter[str] = Counter()
        self.refused: list[str] = []
        self.kids: set[str] = set()
        """The keys of the tokens about which it has said something."""
        self._new: deque[Token] = deque()
        self._older: dict[str, list[Token]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{name}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def show(self, token: Token) -> None:
        """Have it checked as soon as the verifier is free."""
        self._new.append(token)

    def ask(self, token: str) -> Said:
        """What the verifier says. Where it does not answer at all, nothing is said of the token."""
        try:
            return self.verify(token)
        except httpx2.TransportError as error:
            return Said(Verdict.UNASKED, type(error).__name__)

    def _watch(self) -> None:
        again_at = time.monotonic()
        while not self._stop.wait(0.05):
            while self._new:
                token = self._new.popleft()
                self._check(token)
                self._keep(token)
            if time.monotonic() >= again_at:
                for token in [token for tokens in self._older.values() for token in tokens]:
                    self._check(token)
                again_at = time.monotonic() + AGAIN_EVERY

    def _keep(self, token: Token) -> None:
        """Of each key the oldest token that is valid and the newest one: no more than two a key."""
        now = time.time()
        self._older = {
            kid: valid
            for kid, tokens in self._older.items()
            if (valid := [each for each in tokens if each.exp > now])
        }
        self._older[token.kid] = [*self._older.get(token.kid, [])[:1], token]

    def _check(self, token: Token) -> None:
        said = self.ask(token.text)
        if said.verdict is not Verdict.UNASKED:
            self.kids.add(token.kid)
        match said.verdict:
            case Verdict.UNASKED:
                self.unasked[said.reason] += 1
            # A token that has expired meanwhile is rightly refused.
            case Verdict.REFUSED if time.time() < token.exp:
                self.refused.append(f"{self.name} refused a token of {token.kid}: {said.reason}")
            case _:
                self.checks += 1


class Showing:
    """Passes on what a load is given, to each of ``watches``."""

    def __init__(self, load: Load, watches: list[Watch]) -> None:
        self.newest: Token | None = None
        self._load = load
        self._watches = watches
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _pass_on(self) -> None:
        record = self._load.record
        while not self._stop.wait(0.05):
            with record.lock:
                texts, record.tokens = record.tokens, []
            for text in texts:
                self.newest = token = Token.of(text)
                for watch in self._watches:
                    watch.show(token)
