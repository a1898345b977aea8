"""Every verifier that the suite runs, and what it does when the key set has changed since it loaded it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.interop.apache import apache
from tests.interop.envoy import envoy
from tests.interop.in_node import node_service
from tests.interop.in_python import Authlib, Joserfc, PyJwt
from tests.interop.verifier import Guarding, Verifier

from mintmark.testing.key import Alg


class NewKey(Enum):
    """What it does with a ``kid`` that is not in the set that it loaded."""

    ASKS = "asks at once"
    COOLS_DOWN = "asks, but not soon after it asked"
    WAITS = "waits until its cache runs out"


class GoneKey(Enum):
    """How long it accepts a key that has left the set."""

    CACHE = "until its cache runs out"
    LONG = "until its cache runs out, five minutes at the least"
    USE = "as long as tokens of it come"


Start = Callable[[Guarding, Path], AbstractContextManager[Verifier]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One verifier: how it is started, and what it does."""

    name: str
    start: Start
    new_key: NewKey
    gone_key: GoneKey = GoneKey.CACHE
    also: tuple[Alg, ...] = ("PS256", "EdDSA")
    """The algorithms that it takes beside RS256 and ES256."""


def _in_process(make: Callable[[Guarding], Verifier]) -> Start:
    @contextlib.contextmanager
    def start(guarding: Guarding, folder: Path) -> Iterator[Verifier]:
        yield make(guarding)

    return start


def _in_node(name: str) -> Start:
    return functools.partial(node_service, name)


REGISTRY = (
    Entry("jwks-rsa", _in_node("jwks-rsa"), NewKey.ASKS, also=("PS256",)),
    Entry("jose", _in_node("jose"), NewKey.COOLS_DOWN),
    Entry("express-oauth2-jwt-bearer", _in_node("express-oauth2-jwt-bearer"), NewKey.COOLS_DOWN),
    Entry("fast-jwt", _in_node("fast-jwt"), NewKey.ASKS, GoneKey.USE, also=("PS256",)),
    Entry("PyJWT", _in_process(PyJwt), NewKey.COOLS_DOWN),
    Entry("Authlib", _in_process(Authlib), NewKey.WAITS, also=()),
    Entry("joserfc", _in_process(Joserfc), NewKey.WAITS),
    Entry("Envoy", envoy, NewKey.WAITS),
    Entry("mod_auth_openidc", apache, NewKey.ASKS, GoneKey.LONG, also=("PS256",)),
)
