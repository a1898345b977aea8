"""Bytes an entry and nanoseconds a lookup of a denylist, beside a plain set of bytes in the same run.

    python benchmarks/bench_denylist.py [--sizes 10000,1000000,10000000] [--rounds 5] [--json]

*set* holds the 16 bytes that a ``rid`` spells, and is asked for bytes that are there already, so it pays for
no conversion and knows of no expiry; *denylist* is asked with a token's ``rid``, ``jti`` and ``kid`` as text,
as a verifier asks. Bytes are counted: the buckets and the filter, and with the set its own size and that of
its members; what a process holds more (resident) is read from /proc. Lookups are processor time in turning
order, medians, less an empty loop; a *hit* is listed, a *miss* is not, and each is asked for once in a round.
Each size has a process of its own.

The growth curve says for each doubling what an entry costs that comes then, and the longest that one of them
took, beginning to move into a larger table included: so long the lock of a verifier is held. The last lines
are about pruning: what a call takes at the longest while everything expires in groups, and what is left.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mintmark.core import base64url
from mintmark.core.denylist import Denylist
from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import ClientId, Jti, Kid, NumericDate, Rid

SIZES = (10_000, 1_000_000, 10_000_000)
ASKED = 20_000
"""Lookups of one measurement."""
AT_ONCE = 250
GROUPS = 12
"""Spans of five minutes in which what is listed expires: an hour."""
TARGET_BYTES, TARGET_NS = 64, 300
PAGE = os.sysconf("SC_PAGE_SIZE")


def rid(number: int) -> Rid:
    """The ``number``-th of very many, in an order that says nothing."""
    return Rid(base64url.encode((number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16, "big")))


def entry(number: int) -> RevocationEvent:
    """A session that was revoked."""
    return RevocationEvent(
        kind=Kind.RID, value=rid(number), expires_at=NumericDate(300 * (1 + number % GROUPS))
    )


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def grow(size: int) -> tuple[Denylist, list[dict[str, float]]]:
    """A denylist of ``size`` entries, and what they cost, by doubling."""
    listed, curve = Denylist(), list[dict[str, float]]()
    clock = time.thread_time_ns
    done = 0
    while done < size:
        until = min(size, max(1_000, 2 * done))
        spent = worst = 0
        # Some at a time, so that the events themselves take neither memory nor time that is measured.
        for first in range(done, until, 10_000):
            events = [entry(number) for number in range(first, min(until, first + 10_000))]
            for event in events:
                before = clock()
                listed.apply(event)
                took = clock() - before
                spent += took
                worst = max(worst, took)
        mean = spent / (until - done) - clock_cost()
        curve.append({"entries": until, "ns_each": mean, "worst_ms": worst / 1e6})
        done = until
    return listed, curve


def clock_cost() -> float:
    """Nanoseconds that a look at the clock adds to what it measures."""
    clock, spans = time.thread_time_ns, []
    for _ in range(200):
        before = clock()
        spans.append(clock() - before)
    return statistics.median(spans)


def per_call(ask: Callable[[Any], object], values: list[Any], anew: Callable[[Any], Any]) -> float:
    """Nanoseconds of processor time a call, less those of a loop around nothing.

    Each value is made ``anew`` just before, some at a time, as a token's are when it is verified: nobody
    knows its hash yet, and the processor has it at hand, while the tables are wherever they are.
    """
    spent = 0
    for first in range(0, len(values), AT_ONCE):
        asked = [anew(value) for value in values[first : first + AT_ONCE]]
        before = time.thread_time_ns()
        for _ in asked:
            pass
        empty = time.thread_time_ns() - before
        before = time.thread_time_ns()
        for value in asked:
            ask(value)
        spent += time.thread_time_ns() - before - empty
    return spent / len(values)


def another_text(text: str) -> str:
    """An equal text whose hash nobody has asked for."""
    return text.encode().decode()


def another_digest(digest: bytes) -> bytes:
    """Equal bytes whose hash nobody has asked for."""
    return bytes(bytearray(digest))


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Everything about one size, in this process."""
    before = resident()
    listed, curve = grow(size)
    gc.collect()
    held = resident() - before
    before = resident()
    plain = {base64url.decode(rid(number)) for number in range(size)}
    set_held = resident() - before
    step = max(1, size // ASKED)
    hits = [rid(number) for number in range(0, size, step)][:ASKED]
    misses = [rid(size + number) for number in range(len(hits))]
    jti, kid, client = Jti("j" * 22), Kid("k" * 43), ClientId("web")
    covers, contains = listed.covers, plain.__contains__
    by_text = (lambda value: covers(value, jti, kid, client, NumericDate(0)), another_text)
    by_digest = (contains, another_digest)
    contenders: dict[str, tuple[Callable[[Any], object], Callable[[Any], Any], list[Any]]] = {
        "denylist hit": (*by_text, hits),
        "denylist miss": (*by_text, misses),
        "set hit": (*by_digest, [base64url.decode(value) for value in hits]),
        "set miss": (*by_digest, [base64url.decode(value) for value in misses]),
    }
    times: dict[str, list[float]] = {name: [] for name in [*contenders, "around"]}
    for turn in range(rounds):
        # The lambda, which a verifier has no need of, is taken off.
        times["around"].append(per_call(lambda value: value, hits, another_text))
        names = list(contenders)
        for name in names[turn % 4 :] + names[: turn % 4]:
            ask, anew, values = contenders[name]
            times[name].append(per_call(ask, values, anew))
    around = statistics.median(times.pop("around"))
    ns = {name: statistics.median(spans) for name, spans in times.items()}
    if not all(covers(value, jti, kid, client, NumericDate(0)) for value in hits):
        raise RuntimeError("an entry is missing")
    counted = sys.getsizeof(plain) + size * sys.getsizeof(next(iter(plain)))
    del plain, contenders
    return {
        "size": size,
        "bytes": {
            "denylist": listed.nbytes / size,
            "set": counted / size,
            "denylist, resident": held / size,
            "set, resident": set_held / size,
        },
        "ns": {name: span - around if "denylist" in name else span for name, span in ns.items()},
        "growth": curve,
        "prune": prune(listed),
    }


def prune(listed: Denylist) -> dict[str, float]:
    """What forgetting takes: the mean and the longest call until all but the last group has gone."""
    spans = []
    for group in range(1, GROUPS):
        # A verifier prunes with each heartbeat, so about thirty times in the time of a group.
        for _ in range(30):
            before = time.thread_time_ns()
            listed.prune(NumericDate(300 * group))
            spans.append(time.thread_time_ns() - before)
    return {
        "calls": len(spans),
        "mean_ms": statistics.mean(spans) / 1e6,
        "worst_ms": max(spans) / 1e6,
        "left": len(listed),
        "bytes_left": listed.nbytes,
    }


def shown(found: dict[str, Any]) -> None:
    """Print one size."""
    size, counted, ns = found["size"], found["bytes"], found["ns"]
    print(f"\n{size:,} entries{'':14}{'denylist':>10}{'set':>8}{'of set':>8}{'target':>8}")

    def line(name: str, own: float, other: float, target: str = "") -> None:
        print(f"  {name:28}{own:>8.0f}{other:>8.0f}{own / other:>8.2f}{target:>8}")

    line("bytes an entry", counted["denylist"], counted["set"], f"<= {TARGET_BYTES}")
    line("bytes an entry, resident", counted["denylist, resident"], counted["set, resident"])
    line("ns a hit", ns["denylist hit"], ns["set hit"], f"< {TARGET_NS}")
    line("ns a miss", ns["denylist miss"], ns["set miss"], f"< {TARGET_NS}")
    print(f"  {'growth, up to':28}{'ns an entry':>16}{'longest ms':>12}")
    for part in found["growth"]:
        print(f"  {part['entries']:>28,}{part['ns_each']:>16.0f}{part['worst_ms']:>12.2f}")
    pruned = found["prune"]
    print(
        f"  pruning: {pruned['calls']} calls, mean {pruned['mean_ms']:.2f} ms, "
        f"longest {pruned['worst_ms']:.2f} ms; "
        f"{pruned['left']:,} entries left in {pruned['bytes_left'] / 1024:,.0f} KiB"
    )


def main() -> None:
    """Measure each size in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of entries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.rounds)))
        return
    found = []
    load = os.getloadavg()[0]
    for size in options.sizes.split(","):
        command = [sys.executable, __file__, "--one", size, "--rounds", str(options.rounds)]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(made.stdout))
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        print(json.dumps({"benchmark": "denylist", **machine, "load": load, "sizes": found}, indent=2))
        return
    print(f"load average at the beginning: {load:.1f}")
    for each in found:
        shown(each)


if __name__ == "__main__":
    main()
