"""Every error that Mintmark raises.

::

    MintmarkError
    ├── VerificationError            what the verifier SDK raises, and nothing else
    │   ├── InvalidToken             401: the token's fault; ``code`` says which check failed
    │   ├── InsufficientScope        403: a good token that may not do this
    │   └── VerifierUnavailable      503: ours; ``retry_after``
    ├── ConfigurationError           a setting is wrong; ``key`` names it
    │   └── ConfigurationErrors      everything that is wrong, one ``ConfigurationError`` each
    ├── RequestError                 the caller's fault: never raised for a failure of ours
    │   ├── OAuthError               RFC 6749 s.5.2; ``error``, ``status``
    │   │   ├── InvalidRequest · InvalidClient · InvalidGrant · InvalidScope · InvalidTarget
    │   │   ├── UnauthorizedClient · UnsupportedGrantType
    │   │   └── TooManyRequests      429: more than this client may have at once; ``retry_after``
    │   ├── InvalidCredentials       401: unknown user or wrong password, told apart by nobody
    │   ├── NotFound                 404
    │   └── Conflict                 409: it exists already, or changed meanwhile
    └── Unavailable                  503 with Retry-After: ours, always worth another try
        ├── StoreUnavailable         the database is away, locked, read-only or full
        ├── StoreDamaged             the database cannot be read; ``serve`` stops on it at start
        ├── SignerUnavailable        the signer is away, or may not sign this (lease, key)
        ├── Overloaded               a bounded queue is full
        └── NotReady                 the node may not mint now: no key, lease, or clock

A message never holds a token, a secret or a key; an identifier in it is escaped and cut by whoever
puts it there.
"""

from typing import ClassVar

from mintmark.units import Seconds


class MintmarkError(Exception):
    """The base of every error here."""


# --- verification ------------------------------------------------------------------------------


class VerificationError(MintmarkError):
    """The base of the three answers of a verifier; ``status`` is the HTTP status that fits."""

    status: ClassVar[int]


class InvalidToken(VerificationError):
    """401: the token cannot be accepted, now or ever.

    ``code`` is stable and names the first check that failed (``expired``, ``bad_signature`` …); the
    message is for a person. Neither holds any part of the token.
    """

    status = 401

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class InsufficientScope(VerificationError):
    """403: the token is good, but lacks a scope (RFC 6750 s.3.1); ``missing`` lists what it lacks."""

    status = 403
    code = "insufficient_scope"

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__("the token lacks scope: " + " ".join(missing))
        self.missing = missing


class VerifierUnavailable(VerificationError):
    """503: the token could not be judged (no keys, or revocations too old); try again."""

    status = 503

    def __init__(self, code: str, message: str = "", *, retry_after: Seconds = Seconds(1)) -> None:
        super().__init__(message or code)
        self.code = code
        self.retry_after = retry_after


# --- configuration -----------------------------------------------------------------------------


class ConfigurationError(MintmarkError):
    """A setting is wrong; ``key`` is its path (``access_ttl``), ``reason`` a sentence.

    ``where`` is the place to mend it (``mintmark.toml:3``, ``environment``), where there is one.
    """

    def __init__(self, key: str, reason: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {key}: {reason}" if where else f"{key}: {reason}")
        self.key = key
        self.reason = reason
        self.where = where


class ConfigurationErrors(ConfigurationError):
    """Every mistake of a configuration at once; its text is one line for each of ``mistakes``.

    ``key``, ``reason`` and ``where`` are those of the first, for whoever shows only one.
    """

    def __init__(self, mistakes: tuple[ConfigurationError, ...]) -> None:
        first = mistakes[0]
        super().__init__(first.key, first.reason, where=first.where)
        self.args = ("\n".join(map(str, mistakes)),)
        self.mistakes = mistakes


# --- the caller's fault ------------------------------------------------------------------------


class RequestError(MintmarkError):
    """The request is at fault; sending it again as it is cannot help."""

    status: ClassVar[int] = 400


class OAuthError(RequestError):
    """An error of RFC 6749 s.5.2: ``error`` is the registered code, the message its description."""

    error: ClassVar[str]


class InvalidRequest(OAuthError):
    """A parameter is missing, repeated or malformed."""

    error = "invalid_request"


class InvalidClient(OAuthError):
    """Client authentication failed; unknown client and wrong secret are one answer."""

    error = "invalid_client"
    status = 401


class InvalidGrant(OAuthError):
    """The refresh token is unknown, expired, spent or revoked."""

    error = "invalid_grant"


class UnauthorizedClient(OAuthError):
    """The client is not registered for this grant."""

    error = "unauthorized_client"


class UnsupportedGrantType(OAuthError):
    """There is no such grant here."""

    error = "unsupported_grant_type"


class InvalidScope(OAuthError):
    """More scope than the client and the user have."""

    error = "invalid_scope"


class InvalidTarget(OAuthError):
    """An audience that the client is not registered for (RFC 8707 s.2)."""

    error = "invalid_target"


class TooManyRequests(OAuthError):
    """More than this client may have at once; later it may again."""

    error = "temporarily_unavailable"
    status = 429

    def __init__(self, message: str, *, retry_after: Seconds) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidCredentials(RequestError):
    """Unknown user, wrong password or disabled account: one answer, in one time (ASVS 6.3.8)."""

    status = 401


class NotFound(RequestError):
    """There is no such thing."""

    status = 404


class Conflict(RequestError):
    """It exists already, or somebody changed it meanwhile."""

    status = 409


# --- ours --------------------------------------------------------------------------------------


class Unavailable(MintmarkError):
    """A failure of ours: 503 with Retry-After, never 401 and never ``invalid_grant``."""

    status = 503

    def __init__(self, message: str, *, retry_after: Seconds = Seconds(1)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreUnavailable(Unavailable):
    """The database did not do it: away, locked past the time-out, read-only or full."""


class StoreDamaged(Unavailable):
    """The database is there but cannot be read: not a database, or malformed."""


class SignerUnavailable(Unavailable):
    """The signer is away, or refused: no such key, or past what its lease covers."""


class Overloaded(Unavailable):
    """A bounded queue is full (passwords being hashed, say)."""


class NotReady(Unavailable):
    """The node may not mint now: no active key, no lease, or a clock that is off."""
