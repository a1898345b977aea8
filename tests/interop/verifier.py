"""What a verifier of somebody else is to these tests: it is shown a token and says one of three things."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import httpx2


class Verdict(Enum):
    """What a service with that verifier would do."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNASKED = "unasked"
    """The keys could not be had: nobody said anything about the token."""


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict, and what the verifier gave as its reason."""

    verdict: Verdict
    reason: str = ""


ACCEPTED = Said(Verdict.ACCEPTED)


class Verifier(Protocol):
    """One service for as long as it runs. It is asked by one thread at a time."""

    def __call__(self, token: str) -> Said: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarding:
    """What a verifier is configured with."""

    issuer: str
    audience: str = "orders"
    algorithms: tuple[str, ...] = ("RS256",)
    cache: int
    """C: for how many seconds it may keep keys without asking, and how rarely it asks for an unknown one."""
    keys: int = 64
    """The most keys that the issuer publishes at a time."""

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/.well-known/jwks.json"

    @property
    def per_minute(self) -> int:
        """How often keys may be asked for: ten times a minute with a cache of ten minutes, as jwks-rsa has it
        by default, and as often in proportion with a shorter one."""
        return 10 * 600 // self.cache


class OverHttp:
    """A service on a port of its own, asked as clients ask it."""

    def __init__(self, url: str, *, unasked: str = "Jwks remote fetch is failed") -> None:
        # A connection that was kept may be closed by the service in the moment in which it is used again.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.Client(base_url=url, timeout=30, trust_env=False, limits=limits)
        self._unasked = unasked

    def __call__(self, token: str) -> Said:
        answer = self._http.get("/", headers={"Authorization": f"Bearer {token}"})
        reason = answer.text.strip()
        match answer.status_code:
            case 200:
                return ACCEPTED
            case 401 | 403 if reason != self._unasked:
                return Said(Verdict.REFUSED, reason)
            case 401 | 503:
                return Said(Verdict.UNASKED, reason)
            case status:
                raise AssertionError(f"{status} {reason}")

    def close(self) -> None:
        self._http.close()
