"""The signer's side of its custody: what was given is read, and made use of, before the sandbox closes."""

import os
from typing import TYPE_CHECKING

from mintmark.core.sealing import SealKey, read_seal_key
from mintmark.ports.clock import Clock, Entropy
from mintmark.signer.custody import MAX_SECRET, NETWORK, Custody, Fault, HsmCustody
from mintmark.signer.sealed import Seals

if TYPE_CHECKING:
    # It needs python-pkcs11, which only those have who have an HSM.
    from mintmark.signer.token import Token


class Unusable(Exception):
    """Something that was given is of no use; ``fault`` says what."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.setting}: {fault.reason}")
        self.fault = fault


def take_seals(custody: Custody, *, entropy: Entropy) -> Seals | None:
    """Seals of the key-encryption keys, of which the newer comes first; None without. Raises Unusable."""
    keys: list[SealKey] = []
    given = ((custody.seal_key, Fault.SEAL_KEY), (custody.seal_key_previous, Fault.SEAL_KEY_PREVIOUS))
    for descriptor, fault in given:
        if descriptor is not None:
            try:
                keys.append(read_seal_key(_read(descriptor, fault)))
            except ValueError:
                raise Unusable(fault) from None
    return Seals(keys, entropy=entropy) if keys else None


def take_token(hsm: HsmCustody | None, *, rsa_bits: int, clock: Clock) -> "Token | None":
    """The token, its module loaded and not yet called; None without. Raises Unusable."""
    if hsm is None:
        return None
    try:
        pin = _read(hsm.pin, Fault.HSM_PIN).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Unusable(Fault.HSM_PIN) from None
    if not pin.isprintable() or not pin:
        raise Unusable(Fault.HSM_PIN)
    if not all(path == NETWORK or os.path.exists(path) for path in hsm.allow):
        raise Unusable(Fault.HSM_ALLOW)
    # The block that /proc/PID/environ shows stays empty: these live where getenv(3) looks.
    os.environ.update(hsm.environment)
    try:
        from mintmark.signer.cryptoki import Module  # noqa: PLC0415
        from mintmark.signer.token import Token  # noqa: PLC0415

        module = Module(hsm.module)
    except (ImportError, OSError):
        raise Unusable(Fault.HSM_MODULE) from None
    return Token(module, label=hsm.token, pin=pin, rsa_bits=rsa_bits, clock=clock)


def _read(descriptor: int, fault: Fault) -> bytes:
    """All that ``descriptor`` gives, which is closed afterwards."""
    with os.fdopen(descriptor, "rb") as source:
        try:
            content = source.read(MAX_SECRET + 1)
        except OSError:
            raise Unusable(fault) from None
    if len(content) > MAX_SECRET:
        raise Unusable(fault)
    return content
