"""GET discovery, the key set, one key: public documents that caches may keep (RFC 8414, RFC 7517)."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from mintmark.core.jwk import is_thumbprint
from mintmark.errors import NotFound
from mintmark.grants import GRANTS
from mintmark.http.request import Incoming, names_etag
from mintmark.server import document
from mintmark.server.document import Document
from mintmark.server.services import Services
from mintmark.units import Kid

CORS: Final[Mapping[str, str]] = {"Access-Control-Allow-Origin": "*"}
"""Any page may read public documents; with ``*`` no browser sends credentials along."""


class Documents:
    """The public documents of one issuer."""

    def __init__(self, services: Services) -> None:
        self._ring = services.ring
        self._max_age = services.timing.jwks_max_age
        self._configured = services.algorithm
        self._generation: int | None = None
        self._made: tuple[Document, Document] | None = None

    async def discovery(self, request: Incoming) -> Response:
        """The issuer's metadata, the same under both names; as the key set, it follows the ring."""
        metadata, _ = self._of_ring()
        return _conditional(request, metadata)

    async def jwks(self, request: Incoming) -> Response:
        """The key set as last read, however old, so that tokens verify with the store away; at first 503."""
        _, jwks = self._of_ring()
        return _conditional(request, jwks)

    def _of_ring(self) -> tuple[Document, Document]:
        """Metadata and key set of the ring as last read, made once for each of its generations."""
        ring = self._ring.view.ring
        if self._made is None or self._generation != ring.generation:
            metadata = document.discovery(
                ring, configured=self._configured, grant_types=tuple(GRANTS), max_age=self._max_age
            )
            self._made = metadata, document.jwks(ring, max_age=self._max_age)
            self._generation = ring.generation
        return self._made

    async def key(self, request: Incoming) -> Response:
        """One key, for people and tools; 404 only where the ring is fresh enough to know."""
        kid = request.path_params["kid"]
        found = self._ring.find(Kid(kid)) if is_thumbprint(kid) else None
        if found is None:
            raise NotFound("there is no such key")
        return _conditional(request, document.key(found, max_age=self._max_age))


def _conditional(request: Incoming, found: Document) -> Response:
    headers = {"ETag": found.etag, "Cache-Control": found.cache_control}
    if names_etag(request, found.etag):
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers=headers | {"Content-Type": document.JSON})
