"""The key set that answers at a public URL, compared with what the store publishes."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from mintmark.core.key import KeyState
from mintmark.core.keyring import Ring
from mintmark.core.timing import Timing
from mintmark.server.diagnosis.answer import FIXES, Answer, NoAnswer, Trouble, instant_of, keys_of, unzipped
from mintmark.server.diagnosis.count import counted
from mintmark.server.diagnosis.finding import Check, Finding, Verdict, failed, ok, skipped, warning
from mintmark.server.setting import shown
from mintmark.units import Kid, NumericDate, spoken

_JSON: Final = re.compile(r"application/([a-z0-9.-]+\+)?json\s*(;.*)?", re.IGNORECASE)
_BY_PROXY: Final = frozenset({502, 503, 504})
_REDIRECTS: Final = range(300, 400)
_KIDS_SHOWN: Final = 2
_START: Final = "start a node: `mintmark serve`"


_REST: Final = (
    Check.PUBLICATION_KEYS,
    Check.PUBLICATION_CACHE,
    Check.PUBLICATION_FORM,
    Check.PUBLICATION_DATE,
)


def of_key_set(
    url: str,
    plain: Answer | NoAnswer,
    zipped: Answer | NoAnswer,
    *,
    rings: tuple[Ring, ...],
    now: NumericDate,
    timing: Timing,
    running: bool,
    needed: bool = True,
) -> tuple[Finding, ...]:
    """Everything about the key set at ``url``, asked for once without and once with compression.

    ``rings`` are those of the store as of ``now``, read before and after, empty where it could not be
    read; ``running`` says whether a node should answer, ``needed`` whether nodes read their keys back here.
    """
    keys = keys_of(unzipped(plain)) if isinstance(plain, Answer) and plain.status == 200 else None
    if keys is None or isinstance(plain, NoAnswer):
        reach = _unreached(url, plain, running=running, needed=needed)
        return (reach, *(skipped(check, url, "there is no key set to look at") for check in _REST))
    return (
        ok(Check.PUBLICATION_REACH, url, f"answers with {counted(len(keys), 'key')}"),
        _of_kids(url, keys, rings, now, timing),
        _of_caching(url, plain, timing),
        _of_form(url, plain, zipped, keys, rings),
        _of_date(url, plain, timing),
    )


def unknown_kids(plain: Answer | NoAnswer, ring: Ring) -> bool:
    """Whether the answer holds a key that ``ring`` does not: then that should be read once more."""
    keys = keys_of(unzipped(plain)) if isinstance(plain, Answer) else None
    return keys is not None and any(ring.find(Kid(kid)) is None for kid in keys)


def _unreached(url: str, answer: Answer | NoAnswer, *, running: bool, needed: bool) -> Finding:
    found, fix, by_start = _obstacle(answer)
    if by_start and not running:
        return warning(Check.PUBLICATION_REACH, url, f"nobody answers yet ({found})", fix=_START)
    if not needed:
        fix = f"nodes use `proof_urls`, but verifiers need it: see whether they reach it; {fix}"
        return warning(Check.PUBLICATION_REACH, url, found, fix=fix)
    return failed(Check.PUBLICATION_REACH, url, found, fix=fix)


def _obstacle(answer: Answer | NoAnswer) -> tuple[str, str, bool]:
    """What is in the way, what removes it, and whether the start of a node may."""
    forward = "forward this path to `listen` unchanged"
    if isinstance(answer, NoAnswer):
        trouble = answer.trouble
        by_start = trouble not in {Trouble.NAME, Trouble.TLS}
        return f"{trouble.value}: {answer.detail}", FIXES[trouble], by_start
    if answer.status == 200:
        return "the answer is no key set", forward, False
    if answer.status in _BY_PROXY:
        return f"status {answer.status}", "see that the proxy reaches `listen`, and node.ready", True
    if answer.status in _REDIRECTS:
        to = shown(answer.headers.get("location", "nowhere"), limit=200)
        found = f"a redirect to {to}, which verifiers do not follow"
        return found, "answer here without it, or set `issuer` to the URL that answers", False
    return f"status {answer.status}", forward, False


def _of_kids(
    url: str, keys: Mapping[str, Any], rings: tuple[Ring, ...], now: NumericDate, timing: Timing
) -> Finding:
    check = Check.PUBLICATION_KEYS
    if not rings:
        return skipped(check, url, "the store's keys could not be read")
    ring = rings[-1]
    lag = timing.jwks_max_age + timing.propagation
    published = {key.kid for one in rings for key in one.published()}
    missing = [key for key in ring.published() if key.kid not in keys]
    late = [key.kid for key in missing if now - key.prepared_at > lag]
    strange = [kid for kid in keys if kid not in published]
    revoked = [
        key.kid
        for key in ring.keys
        if key.kid in keys and key.state is KeyState.REVOKED and now - (key.revoked_at or now) > lag
    ]
    if keys and ring.published() and not published & keys.keys():
        return failed(
            check,
            url,
            "none of its keys is in the store: whoever answers works with another database",
            fix="see where the proxy leads, and that every node has the same `store` and `issuer`",
        )
    if revoked:
        return failed(
            check, url, f"still holds {_some(revoked)}, which was revoked", fix="purge the cache in between"
        )
    if late:
        return failed(
            check,
            url,
            f"lacks {_some(late)}, public for longer than a cache may keep the set",
            fix="purge the cache in between, and have it obey Cache-Control; see node.ready on every node",
        )
    if strange:
        return warning(
            check,
            url,
            f"holds {_some(strange)}, which the store does not publish",
            fix=f"ask again in {spoken(lag)}: if it stays, a cache or a node with another store answers",
        )
    found = f"holds what the store publishes: {counted(len(ring.published()), 'key')}"
    if missing:
        found += f", {len(missing)} of them too new to be here yet"
    return ok(check, url, found)


def _of_caching(url: str, answer: Answer, timing: Timing) -> Finding:
    check, longest = Check.PUBLICATION_CACHE, timing.jwks_max_age
    given = answer.headers.get("cache-control", "")
    ages = [int(age) for age in re.findall(r"(?:^|[,\s])(?:s-)?max-?age=\"?(\d{1,9})", given, re.IGNORECASE)]
    old = answer.headers.get("age", "")
    if old.isdigit() and int(old[:9]) > longest:
        return failed(
            check,
            url,
            f"came from a cache that kept it for {spoken(int(old[:9]))}; jwks_max_age is {spoken(longest)}",
            fix="have the cache obey Cache-Control (nginx: no proxy_ignore_headers, no proxy_cache_valid)",
        )
    if ages and max(ages) > longest:
        return failed(
            check,
            url,
            f"Cache-Control says {shown(given)}; jwks_max_age is {spoken(longest)}: a key would sign before "
            "verifiers have it",
            fix="have the proxy pass Cache-Control on as it is (nginx: no `expires`, no `add_header`)",
        )
    if not ages:
        return warning(
            check,
            url,
            f"Cache-Control says {shown(given)}" if given else "no Cache-Control: caches will guess",
            fix=f"have the proxy pass on what the node sends: public, max-age={longest}",
        )
    kept = f", {old} s old" if old.isdigit() else ""
    return ok(check, url, f"may be kept for {spoken(max(ages))}{kept}")


def _of_form(
    url: str, plain: Answer, zipped: Answer | NoAnswer, keys: Mapping[str, Any], rings: tuple[Ring, ...]
) -> Finding:
    check = Check.PUBLICATION_FORM
    kind, coding = plain.headers.get("content-type", ""), plain.headers.get("content-encoding", "")
    changed = [
        key.kid
        for ring in rings[-1:]
        for key in ring.published()
        if key.kid in keys and keys[key.kid] != json.loads(key.jwk)
    ]
    if changed:
        return failed(
            check,
            url,
            f"{_some(changed)} is another key here than in the store",
            fix="find out who answers: no cache does that by itself",
        )
    if coding not in {"", "identity"}:
        return failed(
            check,
            url,
            f"is compressed ({shown(coding)}) where that was not asked for",
            fix="have the proxy compress only where Accept-Encoding allows it, and send Vary",
        )
    if isinstance(zipped, NoAnswer) or zipped.status != 200 or keys_of(unzipped(zipped)) is None:
        return failed(
            check,
            url,
            "cannot be read once it was asked for with gzip",
            fix="have the proxy pass the answer on unchanged (nginx: `gzip off` for this path)",
        )
    if _JSON.fullmatch(kind) is None:
        return warning(
            check,
            url,
            f"Content-Type is {shown(kind) or 'missing'}: some verifiers refuse that",
            fix="have the proxy pass application/json on",
        )
    return ok(check, url, f"{shown(kind)}, as the node sends it")


def _of_date(url: str, answer: Answer, timing: Timing) -> Finding:
    check, text = Check.PUBLICATION_DATE, answer.headers.get("date", "")
    at = instant_of(text)
    if at is None:
        return skipped(check, url, "the answer has no Date")
    age = answer.headers.get("age", "")
    # What a cache gives was made then, and is older by its Age (RFC 9111 s.4.2.3).
    theirs = at + (int(age[:9]) if age.isdigit() else 0)
    # Both are rounded down, so a second proves nothing.
    offset = max(0, answer.asked_at - theirs - 1, theirs - answer.answered_at - 1)
    if offset > timing.clock_skew:
        return warning(
            check,
            url,
            f"its clock is {spoken(offset)} away from this machine's; clock_skew is "
            f"{spoken(timing.clock_skew)}",
            fix="set the clock of whoever answers, or of this machine: see machine.clock on both",
        )
    return ok(check, url, f"its clock and this machine's are at most {offset + 1} s apart")


def reached(findings: tuple[Finding, ...]) -> bool:
    """Whether the key set of these findings was there."""
    return findings[0].verdict is Verdict.OK


def _some(kids: list[Any]) -> str:
    shown_kids = ", ".join(shown(str(kid), limit=50) for kid in kids[:_KIDS_SHOWN])
    return shown_kids + (f" and {len(kids) - _KIDS_SHOWN} more" if len(kids) > _KIDS_SHOWN else "")
