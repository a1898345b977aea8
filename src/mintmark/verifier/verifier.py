"""The object that a service holds: a token goes in, who sent it comes out, or one of three errors."""

import asyncio
import ssl
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Literal, Self, TypeAlias

from mintmark.core import jws, strict_json, verification
from mintmark.core.claims import AccessToken
from mintmark.core.jwk import UnusableKeySet, parse_jwk_set
from mintmark.core.refusal import Code
from mintmark.core.verification import KeyAbsent, Trust, Trusted
from mintmark.errors import (
    ConfigurationError,
    InvalidToken,
    VerificationError,
    VerifierUnavailable,
)
from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import Issuer as IssuerUrl
from mintmark.verifier import setting
from mintmark.verifier.event import LOGGER, Listener
from mintmark.verifier.following import Following, View
from mintmark.verifier.setting import Issuer, Names

Scopes: TypeAlias = str | Iterable[str]
AnyClock: TypeAlias = Clock | Callable[[], float] | object

_NONE: Final[frozenset[str]] = frozenset()
_INCIDENTS: Final = {
    Code.BAD_SIGNATURE: "bad_signature_known_kid",
    Code.ALG_MISMATCH: "alg_mismatch",
    Code.FORBIDDEN_HEADER: "forbidden_header",
    Code.UNKNOWN_KID: "unknown_kid",
    Code.REVOKED: "revoked_token_used",
}


class Verifier:
    """Verifies the access tokens of one issuer, or of several (:meth:`many`), for this service.

    Nothing is fetched until the first token comes, or :meth:`start` is called. From then on a thread
    keeps keys and revocations up to date until :meth:`close`. One object serves any number of threads
    and event loops, and works on in a forked child.
    """

    def __init__(
        self,
        issuer: str,
        *,
        audience: Names,
        algorithms: Names = setting.ALGORITHMS,
        leeway: int | None = None,
        profile: Literal["rfc9068", "jwt"] = "rfc9068",
        on_stale: Literal["deny", "allow", "prove"] = "prove",
        feed_bound: int = 300,
        feed_token: str | None = None,
        on_cold: Literal["lazy", "require"] = "lazy",
        clock: AnyClock = SYSTEM_CLOCK,
        entropy: Entropy = SYSTEM_ENTROPY,
        on_event: Listener | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Options are :class:`Issuer`'s, and those of :meth:`many`. Raises ConfigurationError."""
        only = Issuer(
            issuer=issuer,
            audience=audience,
            algorithms=algorithms,
            leeway=leeway,
            profile=profile,
            on_stale=on_stale,
            feed_bound=feed_bound,
            feed_token=feed_token,
        )
        self._follow((only,), on_cold=on_cold, clock=clock, entropy=entropy, on_event=on_event, tls=tls)

    @classmethod
    def many(
        cls,
        *issuers: Issuer,
        on_cold: Literal["lazy", "require"] = "lazy",
        clock: AnyClock = SYSTEM_CLOCK,
        entropy: Entropy = SYSTEM_ENTROPY,
        on_event: Listener | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """A verifier of several issuers' tokens; a token's ``iss`` chooses.

        ``on_cold``: whether :meth:`start` raises when keys or revocations cannot be had (``"require"``).
        ``on_event``: called with each :class:`~mintmark.verifier.event.Event`. ``tls``: for issuers with
        a private certificate authority. Raises ConfigurationError.
        """
        made = cls.__new__(cls)
        made._follow(  # noqa: SLF001 - another constructor of the same class
            issuers, on_cold=on_cold, clock=clock, entropy=entropy, on_event=on_event, tls=tls
        )
        return made

    @classmethod
    def static(
        cls,
        jwks: bytes | str | Mapping[str, Any],
        *,
        issuer: str,
        audience: Names,
        algorithms: Names = setting.ALGORITHMS,
        leeway: int | None = None,
        profile: Literal["rfc9068", "jwt"] = "rfc9068",
        clock: AnyClock = SYSTEM_CLOCK,
    ) -> Self:
        """A verifier with a fixed key set, which does no I/O and hears of no logout.

        Tokens say ``revocation="unsupported"``. Raises ConfigurationError, also for a set without a
        usable key.
        """
        policy = setting.token_policy(
            Issuer(issuer=issuer, audience=audience, algorithms=algorithms, leeway=leeway, profile=profile)
        )
        try:
            parsed = parse_jwk_set(jwks.encode() if isinstance(jwks, str) else jwks)
        except UnusableKeySet as error:
            raise ConfigurationError("jwks", str(error)) from None
        made = cls.__new__(cls)
        trust = Trust(policy=policy, keys={key.kid: key for key in parsed.keys})
        made._hold(trust, clock)  # noqa: SLF001 - another constructor of the same class
        return made

    def _hold(self, trust: Trust, clock: AnyClock) -> None:
        self._issuers: tuple[str, ...] = (trust.policy.issuer,)
        self._clock = setting.as_clock(clock)
        self._require_warm = False
        self._patience = 0.0
        self._following: Following | None = None
        self._view = View(Trusted([trust]), float("inf"), frozenset({trust.policy.issuer}))

    def _follow(
        self,
        issuers: tuple[Issuer, ...],
        *,
        on_cold: str,
        clock: AnyClock,
        entropy: Entropy,
        on_event: Listener | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        if not issuers:
            raise ConfigurationError("issuer", "a verifier trusts at least one issuer")
        if len({issuer.issuer for issuer in issuers}) < len(issuers):
            raise ConfigurationError("issuer", "an issuer is configured once")
        if on_cold not in ("lazy", "require"):
            raise ConfigurationError("on_cold", "one of lazy, require")
        self._issuers = tuple(issuer.issuer for issuer in issuers)
        self._clock = setting.as_clock(clock)
        self._require_warm = on_cold == "require"
        terms = [setting.check(issuer) for issuer in issuers]
        following = Following(terms, clock=self._clock, entropy=entropy, listener=on_event, tls=tls)
        self._following = following
        self._patience = following.patience
        self._view = following.view
        # The thread knows nothing of this object, so that dropping the last reference ends it.
        weakref.finalize(self, following.engine.abandon)

    # --- verifying -----------------------------------------------------------------------------

    def verify(self, raw: object, *, scopes: Scopes = (), fresh_revocation: bool = False) -> AccessToken:
        """The access token that ``raw`` is, if it is good now and has all ``scopes``.

        Does no I/O while keys are there; otherwise waits for them, bounded. ``fresh_revocation`` refuses
        with 503 rather than rely on revocations older than the bound. Raises InvalidToken,
        InsufficientScope or VerifierUnavailable, and nothing else, whatever ``raw`` is.
        """
        wanted = _scopes(scopes)
        try:
            return self._judge(raw, wanted, fresh_revocation)
        except (KeyAbsent, VerifierUnavailable):
            pass
        steps = self._wait_and_judge(raw, wanted, fresh_revocation)
        try:
            while True:
                self._wait(next(steps))
        except StopIteration as end:
            token: AccessToken = end.value
            return token

    async def averify(
        self, raw: object, *, scopes: Scopes = (), fresh_revocation: bool = False
    ) -> AccessToken:
        """As :meth:`verify`, without blocking the event loop.

        Cancelling the caller does not cancel what others wait for too.
        """
        wanted = _scopes(scopes)
        try:
            return self._judge(raw, wanted, fresh_revocation)
        except (KeyAbsent, VerifierUnavailable):
            pass
        steps = self._wait_and_judge(raw, wanted, fresh_revocation)
        try:
            while True:
                await self._await(next(steps))
        except StopIteration as end:
            token: AccessToken = end.value
            return token

    def require(self, *scopes: str, fresh_revocation: bool = False) -> "Requirement":
        """This verifier, with ``scopes`` that every token must have: each one scope, or several spaced."""
        return Requirement(self, _scopes(scopes), fresh_revocation)

    @property
    def issuers(self) -> tuple[str, ...]:
        """The issuers whose tokens are accepted."""
        return self._issuers

    def _judge(self, raw: object, scopes: frozenset[str], fresh: bool) -> AccessToken:
        following = self._following
        view = self._view
        if following is not None:
            view = following.view
            if not following.engine.running or self._clock.monotonic() >= view.until:
                view = following.renew()
        try:
            token = verification.verify(raw, view.trusted, self._clock.now(), scopes=scopes)
        except InvalidToken as error:
            self._report(error, raw)
            raise
        except (VerificationError, KeyAbsent):
            raise
        except Exception:  # noqa: BLE001 - a mistake of ours refuses the token, and is not its fault
            LOGGER.exception("a token could not be judged")
            raise VerifierUnavailable("internal", "the token could not be judged") from None
        if fresh and token.iss in view.behind:
            raise VerifierUnavailable(Code.REVOCATION_STALE, "revocations are not up to date")
        return token

    def _wait_and_judge(
        self, raw: object, scopes: frozenset[str], fresh: bool
    ) -> Generator["Future[None]", None, AccessToken]:
        """Judge again and again, yielding a future to wait for in between."""
        arrived = self._clock.monotonic()
        since: int | None = None
        while True:
            try:
                return self._judge(raw, scopes, fresh)
            except KeyAbsent as absent:
                future, since = self._ask_key(absent, since, arrived, raw)
            except VerifierUnavailable as error:
                if error.code != Code.REVOCATION_STALE or self._following is None:
                    raise
                issuer = _issuer(raw)
                if not fresh:
                    self._following.prove(issuer)
                future = self._following.ask_feed(issuer, arrived)
            if future is not None:
                yield future

    def _wait(self, future: "Future[None]") -> None:
        try:
            future.result(self._patience)
        except TimeoutError:
            raise _silent() from None

    async def _await(self, future: "Future[None]") -> None:
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.wrap_future(future)
        except TimeoutError:
            raise _silent() from None

    def _ask_key(
        self, absent: KeyAbsent, since: int | None, arrived: float, raw: object
    ) -> tuple["Future[None] | None", int | None]:
        try:
            if self._following is None:
                raise InvalidToken(Code.UNKNOWN_KID, "the key set holds no such key")
            return self._following.ask_key(absent, since, arrived)
        except InvalidToken as error:
            self._report(error, raw)
            raise

    def _report(self, error: InvalidToken, raw: object) -> None:
        following = self._following
        if following is None:
            return
        # Whose token it claims to be; what it claims is not believed, and only counted.
        reporter = following.reporter_of(_issuer(raw))
        reporter.rejected(error.code)
        incident = _INCIDENTS.get(error.code)  # type: ignore[call-overload]
        if incident is not None:
            reporter.incident(incident)
        reporter.flush()

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> bool:
        """Load keys and revocations; whether :meth:`ready` now.

        Takes at most five seconds, and less where an issuer fails: the thread goes on trying. Raises
        VerifierUnavailable where it is not ready and ``on_cold`` is ``"require"``, where it was closed, and
        where its thread does not get a turn at all.
        """
        for future in self._warm():
            self._wait(future)
        return self._started()

    async def astart(self) -> bool:
        """As :meth:`start`, without blocking the event loop."""
        for future in self._warm():
            await self._await(future)
        return self._started()

    def ready(self) -> bool:
        """Whether good tokens of every issuer would be accepted now; for a readiness probe."""
        return self._following is None or self._following.is_ready()

    def close(self) -> None:
        """End the thread; every later verification raises VerifierUnavailable."""
        if self._following is not None:
            self._following.engine.stop()

    async def aclose(self) -> None:
        """As :meth:`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _warm(self) -> Generator["Future[None]", None, None]:
        following = self._following
        if following is None:
            return
        deadline = self._clock.monotonic() + following.load_wait
        while (future := following.ask_ready(deadline)) is not None:
            yield future

    def _started(self) -> bool:
        ready = self.ready()
        if self._require_warm and not ready:
            raise VerifierUnavailable("not_ready", "keys or revocations could not be loaded")
        return ready


class Requirement:
    """A verifier together with what every token must have; made by :meth:`Verifier.require`."""

    __slots__ = ("fresh_revocation", "scopes", "verifier")

    def __init__(self, verifier: Verifier, scopes: frozenset[str], fresh_revocation: bool) -> None:
        self.verifier = verifier
        self.scopes = scopes
        self.fresh_revocation = fresh_revocation

    def verify(self, raw: object) -> AccessToken:
        """As :meth:`Verifier.verify`."""
        return self.verifier.verify(raw, scopes=self.scopes, fresh_revocation=self.fresh_revocation)

    async def averify(self, raw: object) -> AccessToken:
        """As :meth:`Verifier.averify`."""
        return await self.verifier.averify(raw, scopes=self.scopes, fresh_revocation=self.fresh_revocation)


def _scopes(scopes: Scopes) -> frozenset[str]:
    """One scope, several with a space between them as OAuth writes them, or any iterable of such text."""
    if not scopes:
        return _NONE
    texts = (scopes,) if isinstance(scopes, str) else scopes
    # No scope holds a space (RFC 6749 s.3.3): one that seemed to would be a scope that no token has.
    return frozenset(scope for text in texts for scope in text.split())


def _silent() -> VerifierUnavailable:
    """The answer where the verifier's thread, which ends every wait in time, did not."""
    return VerifierUnavailable("internal", "the verifier's thread does not answer")


def _issuer(raw: object) -> IssuerUrl:
    """The ``iss`` that the token claims, or "" where it has none that can be read."""
    try:
        claims = strict_json.decode(jws.decode(jws.split(raw)[2]))
    except (InvalidToken, strict_json.NotStrictJson):
        return IssuerUrl("")
    iss = claims.get("iss") if isinstance(claims, dict) else None
    return IssuerUrl(iss) if isinstance(iss, str) else IssuerUrl("")
