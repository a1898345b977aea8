"""Keys of mode ``hsm``: made in a PKCS#11 token, and used there; no private half ever leaves it.

Imported only where a token is configured. Everything here blocks for as long as the token takes, so it runs
in threads, each call with a session of its own. Whatever the token reports, the answer is SignerUnavailable,
and the next call begins anew: a token that was pulled out or restarted works again once it is back.

One thing is never repeated: a PIN that was refused. Tokens lock after a few wrong tries.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import MGF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag
from pkcs11.types import SignMixin
from pkcs11.util.ec import encode_named_curve_parameters

from mintmark.core import jwk, jws
from mintmark.core.algorithm import Algorithm
from mintmark.core.jwk import KeyObject, PublicKey, UnusableKey
from mintmark.errors import InvalidToken, SignerUnavailable
from mintmark.ports.clock import Clock
from mintmark.ports.signer import Refusal, SignerRefused, TokenState
from mintmark.signer.cryptoki import Module
from mintmark.units import Issuer, Kid, Seconds

log: Final = logging.getLogger("mintmark.signer")

ALGORITHMS: Final = frozenset({Algorithm.RS256, Algorithm.PS256, Algorithm.ES256})
"""What tokens sign with; few know Ed25519, and those that do disagree about its form."""

_MARK: Final = "mintmark"
_RETRY: Final = 1.0
"""Seconds between two tries to reach a token that is away: callers are answered at once meanwhile."""
_DRAIN: Final = 5.0
"""Seconds that a caller waits for others to come out of a module that has to begin anew."""
_PROOF: Final = b"mintmark: does this key sign?"
"""No JWS signing input has a colon or a blank (RFC 7515 s.5.1), so its signature serves for nothing else."""

_PIN_REFUSED: Final = (
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinExpired,
    pkcs11.PinLocked,
    pkcs11.UserPinNotInitialized,
)
_GONE: Final = (pkcs11.ObjectHandleInvalid, pkcs11.KeyHandleInvalid)
_PSS: Final = (Mechanism.SHA256, MGF.SHA256, 32)


@dataclass(slots=True, eq=False)
class _Session:
    """An open session, and the private keys that were found in it."""

    session: pkcs11.Session
    found: dict[Kid, SignMixin] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Label:
    """What the label of our objects says: whose key it is, for what, and since when."""

    issuer: str
    alg: str
    made_at: int

    def __str__(self) -> str:
        return f"{_MARK} {self.issuer} {self.alg} {self.made_at}"


class TokenKey:
    """:class:`mintmark.signer.keys.TokenKey` of one key in ``token``."""

    def __init__(self, token: "Token", kid: Kid, alg: Algorithm) -> None:
        self._token = token
        self._kid = kid
        self._alg = alg

    def sign(self, message: bytes) -> bytes:
        """The JWS signature of ``message``; raises SignerUnavailable."""
        return self._token.sign(self._kid, self._alg, message)

    def check(self) -> None:
        """Raise SignerUnavailable where the token did not answer when it was last asked."""
        if self._token.state is not TokenState.READY:
            raise SignerUnavailable("the token is away")


class Token:
    """The token called ``label`` behind the PKCS#11 ``module``; it is reached for with the first call.

    ``pin`` is the user's. ``clock`` dates what is made and paces what is tried again. Safe in any thread.
    """

    def __init__(self, module: Module, *, label: str, pin: str, rsa_bits: int, clock: Clock) -> None:
        self._module = module
        self._label = label
        self._pin = pin
        self._rsa_bits = rsa_bits
        self._clock = clock
        self._changed = threading.Condition()
        self._token: pkcs11.Token | None = None
        self._anchor: pkcs11.Session | None = None
        self._idle: list[_Session] = []
        self._inside = 0
        self._retry_at = float("-inf")
        self._state = TokenState.AWAY
        self._said = False

    @property
    def state(self) -> TokenState:
        """How it was when it was last asked for something."""
        return self._state

    def connect(self) -> None:
        """Reach for it, so that :attr:`state` is known; raises SignerUnavailable."""
        with self._session():
            pass

    def generate(self, *, issuer: Issuer, alg: Algorithm) -> tuple[PublicKey, TokenKey]:
        """A new key that signs with ``alg``. Raises SignerRefused (``no_custody``), SignerUnavailable."""
        if alg not in ALGORITHMS:
            raise SignerRefused(Refusal.NO_CUSTODY)
        label = str(_Label(_digest(issuer), alg.value, self._clock.now()))
        with self._session() as held:
            public, private = self._make(held.session, alg, label)
            try:
                made = jwk.public_key(_public_half(public), alg)
                for half in (public, private):
                    half[Attribute.ID] = made.kid.encode()
                self._prove(private, made)
            except BaseException:
                # Under the name that it has now nobody would find it again; sweep is the second try.
                with contextlib.suppress(pkcs11.PKCS11Error):
                    private.destroy()
                    public.destroy()
                raise
        return made, TokenKey(self, made.kid, alg)

    def open(self, *, kid: Kid, issuer: Issuer, alg: Algorithm) -> tuple[PublicKey, TokenKey]:
        """The key ``kid`` that some node made here. Raises SignerRefused (``absent``), SignerUnavailable."""
        with self._session() as held:
            private = self._find(held, kid)
            public = _first(held.session, ObjectClass.PUBLIC_KEY, kid)
            label = None if private is None else _label_of(private)
            if private is None or public is None or label is None:
                raise SignerRefused(Refusal.ABSENT)
            if (label.issuer, label.alg) != (_digest(issuer), alg.value):
                raise SignerRefused(Refusal.ABSENT)
            if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
                log.error("the token would give %s away: it is not used", kid)
                raise SignerRefused(Refusal.ABSENT)
            try:
                # The thumbprint says which key this is, whatever name it has in the token.
                found = jwk.public_key(_public_half(public), alg)
            except (UnusableKey, ValueError):
                raise SignerRefused(Refusal.ABSENT) from None
            if found.kid != kid:
                raise SignerRefused(Refusal.ABSENT)
            self._prove(private, found)
        return found, TokenKey(self, kid, alg)

    def sign(self, kid: Kid, alg: Algorithm, message: bytes) -> bytes:
        """The JWS signature of ``message`` with ``kid``; raises SignerUnavailable."""
        with self._session() as held:
            private = self._find(held, kid)
            if private is not None:
                try:
                    return _signature(private, alg, message)
                except _GONE:
                    # Stale handle, destroyed key or absent token: what is found now tells which.
                    held.found.pop(kid, None)
                    private = self._find(held, kid)
            if private is None:
                raise SignerUnavailable("the token has no such key")
            return _signature(private, alg, message)

    def destroy(self, kid: Kid) -> None:
        """Take ``kid`` out of the token for good; idempotent. Raises SignerUnavailable."""
        with self._session() as held:
            held.found.pop(kid, None)
            for _, item in self._listed(held, {Attribute.ID: kid.encode()}):
                item.destroy()
        log.info("destroyed %s in the token", kid)

    def sweep(self, *, keep: frozenset[Kid], issuer: Issuer, older_than: Seconds) -> tuple[Kid, ...]:
        """Destroy what ``issuer`` made more than ``older_than`` ago and is not in ``keep``; what that was."""
        swept: set[Kid] = set()
        with self._session() as held:
            for label, item in self._listed(held, {}):
                old = self._clock.now() - label.made_at > older_than
                kid = Kid(bytes(item[Attribute.ID]).decode("ascii", "replace"))
                if old and label.issuer == _digest(issuer) and kid not in keep:
                    item.destroy()
                    swept.add(kid)
        # Its maker ended before it could give it a name.
        swept.discard(Kid(""))
        return tuple(sorted(swept))

    def close(self) -> None:
        """Leave the module; nothing may be under way. Idempotent."""
        with self._changed:
            self._token, self._anchor = None, None
            self._idle.clear()
            self._module.finalize()

    def _make(
        self, session: pkcs11.Session, alg: Algorithm, label: str
    ) -> tuple[pkcs11.PublicKey, pkcs11.PrivateKey]:
        template: Mapping[Attribute, object] = {
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN_RECOVER: False,
        }
        flags = MechanismFlag.SIGN | MechanismFlag.VERIFY
        if alg is Algorithm.ES256:
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(KeyType.EC, curve, local=True)
            return domain.generate_keypair(
                label=label, store=True, capabilities=flags, private_template=dict(template)
            )
        return session.generate_keypair(
            KeyType.RSA,
            self._rsa_bits,
            label=label,
            store=True,
            capabilities=flags,
            private_template=dict(template),
        )

    def _find(self, held: _Session, kid: Kid) -> SignMixin | None:
        found = held.found.get(kid)
        if found is None:
            item = _first(held.session, ObjectClass.PRIVATE_KEY, kid)
            if not isinstance(item, SignMixin):
                # A token that has gone shows no objects and no error: ask for it before it is believed.
                self._module.token(self._label)
                return None
            found = held.found[kid] = item
        return found

    def _listed(
        self, held: _Session, template: Mapping[Attribute, object]
    ) -> tuple[tuple[_Label, pkcs11.Object], ...]:
        found = _ours(held.session, template)
        if not found:
            # As above: none is what an absent token shows, too.
            self._module.token(self._label)
        return found

    def _prove(self, private: pkcs11.Object, public: PublicKey) -> None:
        """See that the private half is the public half's; raises SignerRefused (``absent``)."""
        if not isinstance(private, SignMixin):
            raise SignerRefused(Refusal.ABSENT)
        try:
            jws.verify(public, _PROOF, _signature(private, public.alg, _PROOF))
        except InvalidToken:
            raise SignerRefused(Refusal.ABSENT) from None

    @contextlib.contextmanager
    def _session(self) -> Iterator[_Session]:
        """A session that no other thread has meanwhile; a failure of the token ends all of them."""
        token, held = self._enter()
        lost: pkcs11.PKCS11Error | None = None
        try:
            if held is None:
                held = _Session(token.open(rw=True))
            yield held
        except pkcs11.PKCS11Error as error:
            lost = error
            raise SignerUnavailable("the token failed") from None
        finally:
            with self._changed:
                self._inside -= 1
                if lost is not None:
                    self._lose(token, lost)
                elif held is not None and self._token is token:
                    self._idle.append(held)
                self._changed.notify_all()

    def _enter(self) -> tuple[pkcs11.Token, _Session | None]:
        with self._changed:
            if self._token is None:
                self._reach()
            if self._token is None:
                raise SignerUnavailable("the token is away")
            self._inside += 1
            return self._token, self._idle.pop() if self._idle else None

    def _reach(self) -> None:
        """Begin anew with the module, if it is time to, and log in."""
        if not self._may_try():
            return
        # Whoever is inside still uses sessions that the module is about to end. Who waited too may have tried
        # meanwhile: what holds for one try holds for all of them, above all a PIN that was refused.
        drained = self._changed.wait_for(lambda: self._inside == 0, _DRAIN)
        if not drained or self._token is not None or not self._may_try():
            return
        self._retry_at = self._clock.monotonic() + _RETRY
        try:
            self._module.initialize()
            token = self._module.token(self._label)
            if token.flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY):
                raise pkcs11.PinLocked
            # Logged in are all sessions of a process, for as long as one of them is open.
            self._anchor = token.open(rw=True, user_pin=self._pin)
        except _PIN_REFUSED as error:
            self._state = TokenState.PIN_REFUSED
            log.error(
                "the token refuses the PIN (%s): it is not tried again before a restart", type(error).__name__
            )
        except pkcs11.PKCS11Error as error:
            self._say_away(error)
        else:
            self._token = token
            self._state = TokenState.READY
            log.log(logging.WARNING if self._said else logging.INFO, "the token answers")
            self._said = False

    def _may_try(self) -> bool:
        return self._state is not TokenState.PIN_REFUSED and self._clock.monotonic() >= self._retry_at

    def _lose(self, token: pkcs11.Token, error: pkcs11.PKCS11Error) -> None:
        if self._token is token:
            self._token, self._anchor = None, None
            self._idle.clear()
            self._say_away(error)

    def _say_away(self, error: pkcs11.PKCS11Error) -> None:
        self._state = TokenState.AWAY
        if not self._said:
            log.error("the token does not answer: %s", type(error).__name__)
        self._said = True


def _digest(issuer: Issuer) -> str:
    return hashlib.sha256(issuer.encode()).hexdigest()[:16]


def _label_of(item: pkcs11.Object) -> _Label | None:
    words = str(item[Attribute.LABEL]).split(" ")
    if len(words) != 4 or words[0] != _MARK or not (words[3].isascii() and words[3].isdigit()):
        return None
    return _Label(words[1], words[2], int(words[3]))


def _ours(
    session: pkcs11.Session, template: Mapping[Attribute, object]
) -> tuple[tuple[_Label, pkcs11.Object], ...]:
    """Our objects in the token, private halves first: what is left of a pair is never the half that signs."""
    found: list[tuple[_Label, pkcs11.Object]] = []
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for item in tuple(session.get_objects({**template, Attribute.CLASS: kind})):
            label = _label_of(item)
            if label is not None:
                found.append((label, item))
    return tuple(found)


def _first(session: pkcs11.Session, kind: ObjectClass, kid: Kid) -> pkcs11.Object | None:
    found = tuple(session.get_objects({Attribute.CLASS: kind, Attribute.ID: kid.encode()}))
    return found[0] if len(found) == 1 else None


def _public_half(public: pkcs11.Object) -> KeyObject:
    """The key that the token shows; raises ValueError where it is none of ours."""
    if public[Attribute.KEY_TYPE] == KeyType.RSA:
        modulus, exponent = (int.from_bytes(public[name]) for name in _RSA)
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    point = bytes(public[Attribute.EC_POINT])
    # An OCTET STRING around the point (PKCS#11 s.2.3.3), which some tokens leave out.
    return ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256R1(), point.removeprefix(b"\x04\x41") if len(point) == _WRAPPED_POINT else point
    )


_RSA: Final = (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)
_WRAPPED_POINT: Final = 67


def _signature(private: SignMixin, alg: Algorithm, message: bytes) -> bytes:
    """In the form of RFC 7518 s.3: for ES256 it is r and s, as PKCS#11 gives them."""
    match alg:
        case Algorithm.RS256:
            return private.sign(message, mechanism=Mechanism.SHA256_RSA_PKCS)
        case Algorithm.PS256:
            return private.sign(message, mechanism=Mechanism.SHA256_RSA_PKCS_PSS, mechanism_param=_PSS)
        case Algorithm.ES256:
            # Hashed here: not every token hashes for ECDSA, and all of them sign a hash.
            return private.sign(hashlib.sha256(message).digest(), mechanism=Mechanism.ECDSA)
        case Algorithm.EDDSA:
            raise SignerRefused(Refusal.NO_CUSTODY)
