"""An issuer for tests: keys, discovery, key set and revocation feed on loopback, with a clock to move.

::

    with FakeIssuer() as issuer:
        verifier = Verifier(issuer.issuer, audience="orders")
        token = verifier.verify(issuer.mint(audience="orders", scope="orders:read"))

It signs and encodes by itself, with nothing of the code that verifies, so that the two check each other.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from mintmark.ports.clock import Clock, Entropy
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.testing.feed import FakeFeed
from mintmark.testing.key import Alg, SigningKey, encode
from mintmark.testing.origin import Fault, Origin, Reply, Request

_KEPT: Final = 86_400
"""Seconds that a revocation stays in the log: longer than any token of a test lives."""


class FakeIssuer:
    """An issuer at ``http://127.0.0.1:PORT`` whose keys, outages and logouts a test commands.

    With a :class:`FakeClock` its heartbeats come when the clock is moved, otherwise every ten seconds.
    Every method may be called from any thread; what it changes, later requests see.
    """

    def __init__(
        self,
        *,
        clock: Clock = SYSTEM_CLOCK,
        entropy: Entropy = SYSTEM_ENTROPY,
        alg: Alg = "ES256",
        feed: bool = True,
        feed_token: str | None = None,
        max_age: int | None = 300,
        port: int = 0,
    ) -> None:
        """``feed_token``: what the revocation feed asks for (RFC 6750), where it is not everybody's."""
        self.clock = clock
        self.max_age = max_age
        self.age: int | None = None
        """The ``Age`` that an HTTP cache in front of the key set would state; None states none."""
        self.jwks: bytes | None = None
        """The key set's bytes in place of the real ones, where a test sets it."""
        self.discovery: dict[str, Any] = {}
        """Members that replace those of the discovery document (None takes one out)."""
        self._entropy = entropy
        self._alg = alg
        self._has_feed = feed
        self._feed_token = feed_token
        self._lock = threading.Lock()
        self._signing = SigningKey.generate(alg)
        self._keys = {self._signing.kid: self._signing}
        self._revoked_keys: list[str] = []
        self._origin = Origin(
            routes={
                "/.well-known/openid-configuration": "discovery",
                "/.well-known/jwks.json": "jwks",
                "/revocations": "feed",
                "/revocations/stream": "stream",
            },
            answer=self._answer,
            clock=clock,
        )
        self._feed = FakeFeed(clock=clock, entropy=entropy, keys=self._announced_keys, call=self._origin.call)
        self._origin.start(port)

    @property
    def issuer(self) -> str:
        """The issuer's URL, the ``iss`` of its tokens."""
        return f"http://127.0.0.1:{self._origin.port}"

    @property
    def kid(self) -> str:
        """The ``kid`` of the key that signs now."""
        return self._signing.kid

    @property
    def kids(self) -> tuple[str, ...]:
        """The published kids."""
        with self._lock:
            return tuple(self._keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; safe to call twice."""
        self._feed.close()
        self._origin.close()

    # --- tokens --------------------------------------------------------------------------------

    def mint(
        self,
        *,
        sub: str = "usr_1",
        audience: str | Sequence[str] = "api",
        scope: str = "",
        rid: str | None = None,
        client_id: str = "app",
        expires_in: int = 900,
        header: dict[str, Any] | None = None,
        signed_by: SigningKey | None = None,
        **claims: Any,
    ) -> str:
        """An access token (RFC 9068) signed with the current key.

        ``claims`` adds members or replaces those it has; None takes one out. ``header`` does so with the
        header. Without ``rid`` the token belongs to a session of its own.
        """
        now = self.clock.now()
        key = signed_by or self._signing
        head = {"alg": key.alg, "kid": key.kid, "typ": "at+jwt"} | (header or {})
        body: dict[str, Any] = {
            "iss": self.issuer,
            "sub": sub,
            "aud": audience if isinstance(audience, str) else list(audience),
            "client_id": client_id,
            "iat": now - 5,
            "exp": now + expires_in,
            "jti": self._random(16),
            "rid": rid or self._random(16),
            "scope": scope,
        } | claims
        return key.sign(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in body.items() if value is not None},
        )

    # --- keys ----------------------------------------------------------------------------------

    def prepare(self) -> SigningKey:
        """Publish one more key that does not sign yet, and return it."""
        key = SigningKey.generate(self._alg)
        with self._lock:
            self._keys[key.kid] = key
        self._feed.wake()
        return key

    def rotate(self, *, to: SigningKey | None = None, keep: bool = True) -> str:
        """Sign with a new key (or a prepared one) from now on; its ``kid``.

        The key before stays published, unless ``keep`` is false: a rotation without overlap.
        """
        key = to or SigningKey.generate(self._alg)
        with self._lock:
            before, self._signing = self._signing, key
            self._keys[key.kid] = key
            if not keep:
                del self._keys[before.kid]
        self._feed.wake()
        return key.kid

    def withdraw(self, kid: str) -> None:
        """Take a key out of the key set, without a word on the feed but the new set."""
        with self._lock:
            del self._keys[kid]
        self._feed.wake()

    # --- revocation ----------------------------------------------------------------------------

    def revoke(
        self,
        *,
        rid: str | None = None,
        jti: str | None = None,
        kid: str | None = None,
        client_id: str | None = None,
        not_before: int | None = None,
        lose: bool = False,
    ) -> None:
        """Log a session out, or deny one token, key, or everything a client got up to ``not_before`` (now).

        Exactly one of the first four. With ``lose`` the event is in the log, but open streams do not send it.
        """
        named = {"rid": rid, "jti": jti, "kid": kid, "client": client_id}
        [(kind, value)] = [(kind, value) for kind, value in named.items() if value is not None]
        event: dict[str, Any] = {"kind": kind, "value": value, "expires_at": self.clock.now() + _KEPT}
        if kind == "client":
            event["not_before"] = self.clock.now() if not_before is None else not_before
        with self._lock:
            if kid is not None:
                self._keys.pop(kid, None)
                self._revoked_keys.append(kid)
        self.announce(event, lose=lose)

    def announce(self, event: dict[str, Any], *, lose: bool = False) -> None:
        """Append ``event`` to the revocation log as it is, of whatever kind."""
        self._feed.append(event, lose=lose)

    def restore(self) -> None:
        """Go back in time as a restored database does: cursors given so far mean nothing any more."""
        self._feed.forget_cursors()
        self._origin.disconnect()

    def beat(self) -> None:
        """Send a heartbeat on every open stream now."""
        self._feed.beat()

    def tell_retry(self, milliseconds: int | None) -> None:
        """Tell streams that begin from now on when to come again after their end; None tells nothing."""
        self._feed.retry = milliseconds

    def mute(self, muted: bool = True) -> None:
        """Send nothing on open streams, and keep them open, until called with False."""
        self._feed.mute(muted)

    # --- failing -------------------------------------------------------------------------------

    def outage(self) -> "FaultPeriod":
        """Refuse every connection and cut the open ones; ends with :meth:`recover` or the ``with`` block."""
        period = self.fail(Fault.REFUSE)
        self._origin.disconnect()
        return period

    def garbage(self, *names: str) -> "FaultPeriod":
        """Answer with bytes that are not JSON."""
        return self.fail(Fault.GARBAGE, *names)

    def slow(self, seconds: float, *names: str) -> "FaultPeriod":
        """Wait ``seconds`` of the clock before each answer."""
        self._origin.delay(seconds, *names)
        return FaultPeriod(self)

    def fail(self, fault: Fault, *names: str) -> "FaultPeriod":
        """Fail as ``fault`` says, on the routes ``names`` (discovery, jwks, feed, stream; all by default)."""
        self._origin.fail(fault, *names)
        return FaultPeriod(self)

    def recover(self) -> None:
        """Answer properly again."""
        self._origin.recover()

    def disconnect(self) -> None:
        """Cut every open connection, once."""
        self._origin.disconnect()

    # --- watching ------------------------------------------------------------------------------

    def requests(self, name: str) -> int:
        """How many requests came for ``discovery``, ``jwks``, ``feed`` or ``stream``."""
        return self._origin.count(name)

    def wait_for_requests(self, name: str, count: int = 1) -> None:
        """Block until ``count`` requests came for that route; TimeoutError after 20 real seconds."""
        self._origin.wait_for(name, count)

    # --- the answers ---------------------------------------------------------------------------

    def _answer(self, name: str, request: Request) -> Reply:
        match name:
            case "discovery":
                return _json(self._discovery_document(), cache="public, max-age=300")
            case "jwks":
                return self._key_set(request)
            case "feed" | "stream" if not self._may_read_feed(request):
                return Reply(status=401, headers={"WWW-Authenticate": "Bearer"})
            case "feed" if self._has_feed:
                return self._page(request)
            case "stream" if self._has_feed:
                return self._stream(request)
        return Reply(status=404)

    def _discovery_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self._alg],
        }
        if self._has_feed:
            document["mintmark_feed"] = f"{self.issuer}/revocations"
            document["mintmark_feed_stream"] = f"{self.issuer}/revocations/stream"
        document |= self.discovery
        return {name: value for name, value in document.items() if value is not None}

    def _announced_keys(self) -> dict[str, Any]:
        with self._lock:
            return {
                "keys": [key.public_jwk for key in self._keys.values()],
                "revoked": list(self._revoked_keys),
            }

    def key_set(self) -> bytes:
        """The key-set document as it is served now."""
        with self._lock:
            return self.jwks or json.dumps({"keys": [key.public_jwk for key in self._keys.values()]}).encode()

    def _key_set(self, request: Request) -> Reply:
        body = self.key_set()
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = {"ETag": etag}
        if self.max_age is not None:
            headers["Cache-Control"] = f"public, max-age={self.max_age}"
        if self.age is not None:
            headers["Age"] = str(self.age)
        if request.headers.get("if-none-match") == etag:
            return Reply(status=304, headers=headers)
        return Reply(headers=headers | {"Content-Type": "application/jwk-set+json"}, body=body)

    def _may_read_feed(self, request: Request) -> bool:
        shown = request.headers.get("authorization")
        return self._feed_token is None or shown == f"Bearer {self._feed_token}"

    def _page(self, request: Request) -> Reply:
        page = self._feed.page(self.issuer, request.query.get("after"))
        return Reply(status=410) if page is None else _json(page, cache="no-store")

    def _stream(self, request: Request) -> Reply:
        after = request.headers.get("last-event-id", request.query.get("after"))
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        return Reply(headers=headers, stream=self._feed.follow(after))

    def _random(self, size: int) -> str:
        return encode(self._entropy.token_bytes(size))


class FaultPeriod:
    """A fault that began when this was made; leaving the ``with`` block ends it."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self._issuer = issuer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._issuer.recover()


def _json(document: dict[str, Any], *, cache: str) -> Reply:
    headers = {"Content-Type": "application/json", "Cache-Control": cache}
    return Reply(headers=headers, body=json.dumps(document).encode())
