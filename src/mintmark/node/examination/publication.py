"""Asks every public URL for what verifiers ask for."""

import asyncio

from mintmark.core.keyring import Ring
from mintmark.node.examination.store import Looked, read_ring
from mintmark.node.examination.web import Web
from mintmark.ports.clock import Clock, Entropy
from mintmark.server.diagnosis import discovery, publication
from mintmark.server.diagnosis.answer import Answer, NoAnswer
from mintmark.server.diagnosis.finding import Check, Finding, skipped
from mintmark.server.document import JWKS_PATH, STREAM_PATH, path_of
from mintmark.server.settings import Settings

_METADATA = "/.well-known/oauth-authorization-server"
_OPENID = "/.well-known/openid-configuration"


async def look_at_publication(
    settings: Settings, looked: Looked, *, running: bool, web: Web, clock: Clock, entropy: Entropy
) -> tuple[Finding, ...]:
    """Everything at the issuer's URL and at each of ``proof_urls``.

    ``running`` says whether a node answers here or lives according to the store.
    """
    bases = tuple(dict.fromkeys((settings.issuer, *settings.only.proof_urls)))
    urls = [base + JWKS_PATH for base in bases]
    plain = await asyncio.gather(*(web.get(url) for url in urls))
    zipped = await asyncio.gather(*(web.get(url, coding="gzip") for url in urls))
    rings = await _rings(settings, looked, plain, clock=clock, entropy=entropy)
    findings: list[Finding] = []
    for url, one, other in zip(urls, plain, zipped, strict=True):
        found = publication.of_key_set(
            url,
            one,
            other,
            rings=rings,
            now=looked.now,
            timing=settings.timing,
            running=running,
            needed=not settings.only.proof_urls or url != urls[0],
        )
        findings += found
        if url == urls[0]:
            findings += await _of_issuer(settings, web, reached=publication.reached(found))
    return tuple(findings)


async def _rings(
    settings: Settings,
    looked: Looked,
    answers: list[Answer | NoAnswer],
    *,
    clock: Clock,
    entropy: Entropy,
) -> tuple[Ring, ...]:
    if looked.ring is None:
        return ()
    ring = looked.ring
    if not any(publication.unknown_kids(answer, ring) for answer in answers):
        return (ring,)
    # A key that came between the two questions is no stranger.
    later = await read_ring(settings, clock=clock, entropy=entropy)
    return (ring,) if later is None else (later, ring)


async def _of_issuer(settings: Settings, web: Web, *, reached: bool) -> tuple[Finding, ...]:
    issuer, path = settings.issuer, path_of(settings.issuer)
    stream = issuer + STREAM_PATH
    if not reached:
        why = "there is no key set at the issuer's URL"
        return (
            skipped(Check.PUBLICATION_DISCOVERY, issuer + _OPENID, why),
            skipped(Check.PUBLICATION_STREAM, stream, why),
        )
    # RFC 8414 s.3.1 puts the issuer's path behind the well-known one, OIDC Discovery s.4 before it.
    documents = (issuer + _OPENID, issuer.removesuffix(path) + _METADATA + path)
    answers = await asyncio.gather(*(web.get(url) for url in documents))
    return (
        *(
            discovery.of_discovery(issuer, url, answer, first=url == documents[0])
            for url, answer in zip(documents, answers, strict=True)
        ),
        discovery.of_stream(stream, await web.first_event(stream)),
    )
