"""The discovery document and the revocation stream, as they come through."""

from mintmark.server.diagnosis.answer import FIXES, Answer, NoAnswer, Trouble, decoded, unzipped
from mintmark.server.diagnosis.finding import Check, Finding, failed, ok, warning
from mintmark.server.document import FEED_PATH, JWKS_PATH, STREAM_PATH
from mintmark.server.setting import shown
from mintmark.units import Issuer


def of_discovery(issuer: Issuer, url: str, answer: Answer | NoAnswer, *, first: bool) -> Finding:
    """Whether the document at ``url`` is the issuer's. The ``first`` is the one that our SDK asks for."""
    check = Check.PUBLICATION_DISCOVERY
    if isinstance(answer, NoAnswer) or answer.status != 200:
        found = answer.trouble.value if isinstance(answer, NoAnswer) else f"status {answer.status}"
        tell = failed if first else warning
        return tell(check, url, found, fix="have the proxy forward this path to `listen` as well")
    document = decoded(unzipped(answer))
    if not isinstance(document, dict):
        fix = "forward this path to `listen` unchanged"
        return failed(check, url, "the answer is no discovery document", fix=fix)
    named = document.get("issuer")
    if named != issuer:
        return failed(
            check,
            url,
            f"names the issuer {shown(str(named), limit=200)}, not {issuer}: verifiers refuse it",
            fix="set the same `issuer` on every node, byte for byte what verifiers are given",
        )
    expected = {
        "jwks_uri": JWKS_PATH,
        "mintmark_feed": FEED_PATH,
        "mintmark_feed_stream": STREAM_PATH,
    }
    wrong = [name for name, path in expected.items() if document.get(name) != issuer + path]
    if wrong:
        return failed(
            check,
            url,
            f"{', '.join(wrong)}: not what this configuration gives",
            fix="have the proxy pass the document on unchanged, and run one version on every node",
        )
    return ok(check, url, "names this issuer, its key set and its feed")


def of_stream(url: str, found: Answer | NoAnswer) -> Finding:
    """Whether the beginning of the stream at ``url`` came through; an empty body is silence."""
    check = Check.PUBLICATION_STREAM
    fix = "switch buffering off for this path (nginx: `proxy_buffering off`), and compression"
    match found:
        case NoAnswer(Trouble.TIMEOUT, _):
            return failed(check, url, "nothing came through: a proxy holds events back", fix=fix)
        case NoAnswer(trouble, detail):
            return failed(check, url, f"{trouble.value}: {detail}", fix=FIXES[trouble])
        case Answer(status=503):
            fix = "see node.ready; as many streams as one address may have may be open"
            return warning(check, url, "status 503: no stream just now", fix=fix)
        case Answer(status=200, body=b""):
            return failed(check, url, "no event came through: a proxy holds them back", fix=fix)
        case Answer(status=200, headers=headers) if headers.get("content-encoding", "identity") != "identity":
            return warning(check, url, "is compressed on its way: events may wait for a full block", fix=fix)
        case Answer(status=200, headers=headers):
            if headers.get("content-type", "").lower().startswith("text/event-stream"):
                return ok(check, url, "events come through at once")
            return failed(
                check, url, "the answer is no stream of events", fix="forward it to `listen` unchanged"
            )
        case Answer(status=status):
            return failed(check, url, f"status {status}", fix="have the proxy forward this path as well")
