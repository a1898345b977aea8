"""A bucket of Amazon S3, or of a server that speaks its protocol: ``s3://bucket/prefix``.

Credentials, region and endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``,
``AWS_ENDPOINT_URL`` …), a web identity or the machine's role; the URL holds none. Conditions are ``If-Match``
and ``If-None-Match``, which some servers ignore in silence (PUB-3).

Obstore's blocking calls run in threads of ours: its asynchronous ones call back from threads of its own, and
a process that ends meanwhile aborts.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from mintmark.adapters.offload import Offload
from mintmark.errors import ConfigurationError
from mintmark.ports.clock import Clock, Entropy
from mintmark.ports.publisher import (
    LARGEST,
    Entry,
    Found,
    Headers,
    PublicationFailed,
    Version,
    bucket_of,
    segments_of,
)

T = TypeVar("T")

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_CONNECT_TIMEOUT: Final = timedelta(seconds=3)
_TIMEOUT: Final = timedelta(seconds=6)
_RETRY_WITHIN: Final = timedelta(seconds=2)
"""One retry for what failed at once, none for what was slow: a call ends before its caller gives it up."""


def from_url(url: str, *, clock: Clock, entropy: Entropy) -> "BucketPublisher":  # noqa: ARG001 - one form for all
    """The bucket at ``s3://bucket/prefix``; raises ConfigurationError for another URL, and for plain http."""
    try:
        bucket, prefix = bucket_of(url)
    except ValueError as error:
        raise ConfigurationError("publish", str(error)) from None
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    at = urlsplit(endpoint)
    if at.scheme == "http" and at.hostname not in _LOOPBACK:
        raise ConfigurationError(
            "publish", "the endpoint of a bucket must be https: plain http is for loopback"
        )
    return BucketPublisher(bucket, prefix, plain_http=at.scheme == "http")


class BucketPublisher:
    """:class:`mintmark.ports.publisher.Publisher` in a bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str, *, plain_http: bool = False) -> None:
        self.place: Final = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "timeout": _TIMEOUT,
                "connect_timeout": _CONNECT_TIMEOUT,
                "allow_http": plain_http,
            },
            retry_config={"max_retries": 1, "retry_timeout": _RETRY_WITHIN},
            conditional_put="etag",
        )
        self._threads = Offload(self.place)

    async def read(self, name: str) -> Found | None:
        """What is there under ``name`` now. Raises PublicationFailed."""
        segments_of(name)
        return await self._run(lambda: self._read(name))

    async def versions(self, folder: str) -> Mapping[str, Version]:
        """The entries directly in ``folder``, by name. Raises PublicationFailed."""
        segments_of(folder)
        return await self._run(lambda: self._versions(folder))

    async def put(self, name: str, entry: Entry, *, over: Version | None) -> bool:
        """Whether ``entry`` was taken in place of version ``over``. Raises PublicationFailed."""
        segments_of(name)
        return await self._run(lambda: self._put(name, entry, over))

    async def delete(self, name: str) -> None:
        """Remove ``name``, whatever it is now. Raises PublicationFailed."""
        segments_of(name)
        await self._run(lambda: self._delete(name))

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.close()

    async def _run(self, work: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return work()
            except (BaseError, OSError, ValueError) as error:
                # Its text repeats the request and the answer, which may hold more than a log should.
                raise PublicationFailed(f"{self.place}: {_reason(error)}") from None

        return await self._threads.run(translated)

    # --- in a thread ---------------------------------------------------------------------------------

    def _read(self, name: str) -> Found | None:
        try:
            found = obstore.get(self._store, name)
        except FileNotFoundError:
            return None
        if found.meta["size"] > LARGEST:
            raise PublicationFailed(f"{self.place}: {name} is larger than a document of ours")
        body = bytes(found.bytes())
        said = found.attributes
        headers = Headers(said.get("Content-Type", ""), said.get("Cache-Control", ""))
        return Found(body, _version(found.meta), headers)

    def _versions(self, folder: str) -> Mapping[str, Version]:
        listed = obstore.list_with_delimiter(self._store, folder)
        return {meta["path"]: _version(meta) for meta in listed["objects"]}

    def _put(self, name: str, entry: Entry, over: Version | None) -> bool:
        try:
            obstore.put(
                self._store,
                name,
                entry.body,
                attributes={
                    "Content-Type": entry.headers.content_type,
                    "Cache-Control": entry.headers.cache_control,
                },
                mode="create" if over is None else {"e_tag": over},
                # One request is one condition.
                use_multipart=False,
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _delete(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return


def _version(meta: "obstore.ObjectMeta") -> Version:
    return Version(meta["e_tag"] or "")


def _reason(error: Exception) -> str:
    match error:
        case PermissionDeniedError() | UnauthenticatedError():
            return "access denied"
        case FileNotFoundError():
            return "no such bucket"
    status = _STATUS.search(str(error))
    return f"status {status[1]}" if status else "no answer"
