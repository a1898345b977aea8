"""Settings about who keeps keys: forms that only they have, and what of them does not go together."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from mintmark.core.algorithm import Algorithm
from mintmark.core.key import KeyMode
from mintmark.server.setting import NONE, Kind
from mintmark.signer.custody import NETWORK

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x1f\x7f]+")
_MAX_LABEL: Final = 32
"""Bytes of a token's label (PKCS#11, CK_TOKEN_INFO)."""
_HSM: Final = ("hsm_module", "hsm_token", "hsm_pin")


def module_path() -> Kind[str | None]:
    """The absolute path of a file; ``"none"``, which is None, where there is none."""

    def parse(value: object) -> str | None:
        if value == NONE:
            return None
        return _path(value, "must name a file by its absolute path")

    return Kind(f'"{NONE}" or absolute path', parse)


def token_label() -> Kind[str | None]:
    """The label of a PKCS#11 token; ``"none"``, which is None, where there is none."""

    def parse(value: object) -> str | None:
        if value == NONE:
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError("must be a token's label: one line of text")
        if len(value.encode()) > _MAX_LABEL:
            raise ValueError(f"must be a token's label: they have at most {_MAX_LABEL} bytes")
        return value

    return Kind(f'"{NONE}" or text, {_MAX_LABEL} bytes', parse)


def assignment() -> Kind[str]:
    """A variable and its value, as a shell writes them."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not _ASSIGNMENT.fullmatch(value):
            raise ValueError('must be a variable and its value, like "SOFTHSM2_CONF=/etc/softhsm2.conf"')
        return value

    return Kind('"NAME=value"', parse)


def reachable() -> Kind[str]:
    """What the signer of an HSM may touch: a path, or the network."""

    def parse(value: object) -> str:
        return NETWORK if value == NETWORK else _path(value, f'must be an absolute path or "{NETWORK}"')

    return Kind(f'absolute path or "{NETWORK}"', parse)


def custody_mistakes(
    values: Mapping[str, object], kinds: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str]]:
    """What does not go together: a setting, and a sentence. ``kinds`` are modes and algorithms in use."""
    if values["seal_key_previous"] is not None and values["seal_key"] is None:
        yield "seal_key_previous", "needs a `seal_key` beside it"
    missing = [name for name in _HSM if values[name] is None]
    if missing and len(missing) < len(_HSM):
        given = next(name for name in _HSM if name not in missing)
        yield given, f"needs {' and '.join(f'`{name}`' for name in missing)} beside it"
    for mode, algorithm in sorted(set(kinds)):
        if mode == KeyMode.SHARED and values["seal_key"] is None:
            yield "key_mode", '"shared" needs `seal_key`'
        if mode == KeyMode.HSM and len(missing) == len(_HSM):
            yield "key_mode", '"hsm" needs `hsm_module`, `hsm_token` and `hsm_pin`'
        if mode == KeyMode.HSM and algorithm == Algorithm.EDDSA:
            yield "algorithm", '"EdDSA" does not go with `key_mode` "hsm": choose ES256, PS256 or RS256'


def _path(value: object, reason: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise ValueError(reason)
    return value
