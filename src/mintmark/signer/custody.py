"""What a signer process is given beside its channel: key-encryption keys, and a PKCS#11 token with its PIN.

Secrets come as inherited descriptors that the signer itself reads to their end. They are in no argument, no
environment and, where the node did not have to touch them, no memory but the signer's.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

NETWORK: Final = "network"
"""In ``HsmCustody.allow``: the module may open sockets and connect."""
MAX_SECRET: Final = 4096
"""Bytes of a secret's source; a key-encryption key has 32, and a PIN is shorter still."""


class Fault(IntEnum):
    """Exit statuses of a signer that was given something of no use."""

    SEAL_KEY = 81
    SEAL_KEY_PREVIOUS = 82
    HSM_PIN = 83
    HSM_MODULE = 84
    HSM_ALLOW = 85

    @property
    def setting(self) -> str:
        """The setting to mend."""
        return self.name.lower()

    @property
    def reason(self) -> str:
        """A sentence that follows the setting's name; never the content."""
        match self:
            case Fault.SEAL_KEY | Fault.SEAL_KEY_PREVIOUS:
                return "must give 32 random bytes, or text that is their base64 or hex"
            case Fault.HSM_PIN:
                return "must give one line of text"
            case Fault.HSM_MODULE:
                return "must be a PKCS#11 module that can be loaded; it takes the extra `hsm`"
            case Fault.HSM_ALLOW:
                return f'must name files and folders that exist, or "{NETWORK}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class HsmCustody:
    """A PKCS#11 token: the path of the module, the token's label, and a descriptor that gives the PIN."""

    module: str
    token: str
    pin: int
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that the module reads; the signer's own environment is empty."""
    allow: tuple[str, ...] = ()
    """Files and folders that the module may read and write, and :data:`NETWORK`; nothing else is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """Descriptors are the opener's, who closes them once the signer has answered. None: not configured."""

    seal_key: int | None = None
    seal_key_previous: int | None = None
    hsm: HsmCustody | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Everything that the signer has to inherit."""
        pin = None if self.hsm is None else self.hsm.pin
        return tuple(each for each in (self.seal_key, self.seal_key_previous, pin) if each is not None)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of :mod:`mintmark.signer.process` that say the same."""
        given: list[tuple[str, str]] = []
        if self.seal_key is not None:
            given.append(("seal-key", str(self.seal_key)))
        if self.seal_key_previous is not None:
            given.append(("seal-key-previous", str(self.seal_key_previous)))
        if self.hsm is not None:
            given += [("hsm-module", self.hsm.module), ("hsm-token", self.hsm.token)]
            given.append(("hsm-pin", str(self.hsm.pin)))
            given += [("hsm-variable", f"{name}={value}") for name, value in self.hsm.environment]
            given += [("hsm-allow", each) for each in self.hsm.allow]
        # In one word, so that a value that begins with a dash is still a value.
        return tuple(f"--{name}={value}" for name, value in given)


NO_CUSTODY: Final = Custody()
