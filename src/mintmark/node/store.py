"""The backends that the settings name, opened for the length of a block."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from mintmark.adapters.argon2 import Argon2Hasher
from mintmark.adapters.registry import make_bus, make_publisher, make_store
from mintmark.errors import ConfigurationError, StoreUnavailable
from mintmark.node.secret import ClusterKeys, read_cluster_keys
from mintmark.ports.bus import Bus
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.passwords import PasswordHasher
from mintmark.ports.publisher import Publisher, segments_of
from mintmark.ports.store import Store
from mintmark.server.document import discovery_paths, jwks_path
from mintmark.server.issuers import IssuerSettings
from mintmark.server.publication import name_of
from mintmark.server.settings import Settings
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

_PAUSE: Final = 0.5
"""Seconds between two attempts to open the store."""


@contextlib.asynccontextmanager
async def open_store(
    settings: Settings,
    *,
    keys: ClusterKeys | None = None,
    attempts: int = 1,
    clock: Clock = SYSTEM_CLOCK,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> AsyncIterator[Store]:
    """The store, its schema up to date. Raises StoreUnavailable or StoreDamaged with the reason, and
    ConfigurationError where the key of the cluster cannot be read; ``keys`` are what was read already.

    More ``attempts`` are for who would cost more to start again than to wait: many processes that start in
    one moment keep each other, and the database, from answering in time.
    """
    keys = keys or await read_cluster_keys(settings)
    store = make_store(settings.store, clock=clock, entropy=entropy, marks=keys.marks)
    for left in reversed(range(attempts)):
        try:
            await store.open()
        except StoreUnavailable:
            if left == 0:
                raise
            await clock.sleep(_PAUSE)
        else:
            break
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def open_bus(settings: Settings, *, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Bus]:
    """The bus, or the one that the store brings."""
    bus = make_bus(settings.bus, store=settings.store, clock=clock)
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def open_places(
    one: IssuerSettings, *, clock: Clock = SYSTEM_CLOCK, entropy: Entropy = SYSTEM_ENTROPY
) -> AsyncIterator[tuple[Publisher, ...]]:
    """The folders and buckets of an issuer, whether they are there or not. Raises ConfigurationError."""
    try:
        for path in (jwks_path(one.issuer), *discovery_paths(one.issuer)):
            segments_of(name_of(path))
    except ValueError:
        if one.publish:
            raise ConfigurationError("publish", "the issuer's path is too long for names of files") from None
    async with contextlib.AsyncExitStack() as stack:
        places = []
        for url in one.publish:
            place = make_publisher(url, clock=clock, entropy=entropy)
            stack.push_async_callback(place.close)
            places.append(place)
        yield tuple(places)


@contextlib.asynccontextmanager
async def open_passwords(settings: Settings) -> AsyncIterator[PasswordHasher]:
    """What hashes passwords, behind its bounded queue."""
    hasher = Argon2Hasher(workers=settings.hash_workers, queue=settings.hash_queue)
    try:
        yield hasher
    finally:
        hasher.close()
