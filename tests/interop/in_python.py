"""Verifiers that are Python libraries, set up as their documentation has it, in this process."""

import time

import httpx2
import jwt
from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator  # type: ignore[import-untyped]
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry, decode
from tests.interop.verifier import ACCEPTED, Guarding, Said, Verdict


class PyJwt:
    """PyJWT with one PyJWKClient for as long as the service runs."""

    def __init__(self, guarding: Guarding) -> None:
        self._guarding = guarding
        self._keys = jwt.PyJWKClient(
            guarding.jwks_uri, lifespan=guarding.cache, cooldown_duration=guarding.cache, timeout=5
        )

    def __call__(self, token: str) -> Said:
        guarding = self._guarding
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            jwt.decode(
                token,
                key,
                algorithms=[*guarding.algorithms],
                audience=guarding.audience,
                issuer=guarding.issuer,
            )
        except (jwt.PyJWKClientConnectionError, OSError) as error:
            return Said(Verdict.UNASKED, str(error))
        except jwt.PyJWTError as error:
            return Said(Verdict.REFUSED, f"{type(error).__name__}: {error}")
        return ACCEPTED


class KeptSet:
    """A key set for a library that fetches none: kept for the whole cache time, whatever is asked for."""

    def __init__(self, guarding: Guarding) -> None:
        self._guarding = guarding
        self._set: KeySet | None = None
        self._until = 0.0

    def get(self) -> KeySet:
        """The set; raises what httpx2 raises when there is none."""
        if self._set is None or time.monotonic() >= self._until:
            asked_at = time.monotonic()
            answer = httpx2.get(self._guarding.jwks_uri, timeout=5, trust_env=False).raise_for_status()
            self._set = KeySet.import_key_set(answer.json())
            self._until = asked_at + self._guarding.cache
        return self._set


class Joserfc:
    """joserfc, with the registry of claims."""

    def __init__(self, guarding: Guarding) -> None:
        self._guarding = guarding
        self._kept = KeptSet(guarding)
        self._claims = JWTClaimsRegistry(
            iss={"essential": True, "value": guarding.issuer},
            aud={"essential": True, "value": guarding.audience},
            exp={"essential": True},
        )

    def __call__(self, token: str) -> Said:
        try:
            decoded = decode(token, self._kept.get(), algorithms=[*self._guarding.algorithms])
            self._claims.validate(decoded.claims)
        except httpx2.HTTPError as error:
            return Said(Verdict.UNASKED, str(error))
        except JoseError as error:
            return Said(Verdict.REFUSED, f"{type(error).__name__}: {error}")
        return ACCEPTED


class _Validator(JWTBearerTokenValidator):  # type: ignore[misc]
    """Authlib's validator of RFC 9068, with the one method that its users have to write."""

    def __init__(self, guarding: Guarding) -> None:
        super().__init__(issuer=guarding.issuer, resource_server=guarding.audience)
        self._kept = KeptSet(guarding)

    def get_jwks(self) -> KeySet:
        return self._kept.get()


class Authlib:
    """Authlib's resource server for JWT access tokens."""

    def __init__(self, guarding: Guarding) -> None:
        self._validator = _Validator(guarding)

    def __call__(self, token: str) -> Said:
        try:
            self._validator.validate_token(self._validator.authenticate_token(token), None, None)
        except httpx2.HTTPError as error:
            return Said(Verdict.UNASKED, str(error))
        except AuthlibBaseError as error:
            return Said(Verdict.REFUSED, f"{error}: {error.__cause__}")
        return ACCEPTED
