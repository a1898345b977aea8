"""/livez, /readyz and /metrics: for whoever runs the node."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from mintmark.core.key import KeyState
from mintmark.core.keyring import Ring
from mintmark.errors import NotReady
from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.request import Incoming
from mintmark.server.readiness import Readiness
from mintmark.server.services import Services


class Probes:
    """What an orchestrator and a monitor ask of one process, about all issuers that it serves."""

    def __init__(self, served: Sequence[Services]) -> None:
        self._readiness = Readiness(served)
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(_Metrics(served))

    async def live(self, _: Incoming) -> Response:
        """200 for as long as this process answers at all."""
        return _json({"status": "live"}, 200)

    async def ready(self, _: Incoming) -> Response:
        """200, or 503 with every reason to send requests elsewhere; of several issuers, those of each."""
        report = await self._readiness.report()
        members: dict[str, object] = {
            "status": "not ready" if report.reasons else "ready",
            "reasons": report.reasons,
        }
        if len(report.issuers) > 1:
            members["issuers"] = report.issuers
        return _json(members, 503 if report.reasons else 200)

    async def metrics(self, _: Incoming) -> Response:
        """This process's numbers in the text form of Prometheus."""
        return Response(
            generate_latest(self._metrics),
            headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": NO_STORE},
        )


class _Metrics(Collector):
    # Labels come from our own enumerations and the settings alone: one that strangers can choose is a leak of
    # memory.
    def __init__(self, served: Sequence[Services]) -> None:
        self._served = served

    def collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "mintmark_events", "Events since this process started.", labels=["issuer", "event"]
        )
        followers = _gauge("mintmark_feed_followers", "Open streams of the revocation feed.")
        feed_fresh = _gauge("mintmark_feed_fresh", "1 while heartbeats may be sent.")
        ring_fresh = _gauge("mintmark_ring_fresh", "1 while the key ring was read lately.")
        generation = _gauge("mintmark_ring_generation", "Changes of the key ring.")
        keys = _gauge("mintmark_keys", "Keys of the ring by state.", "state")
        notices = _gauge("mintmark_logout_notices", "Ended sessions that clients are still to be told of.")
        overdue = _gauge("mintmark_rotation_overdue", "Active keys that should have had a successor by now.")
        # One bus carries the wake-ups of all issuers.
        bus_up = GaugeMetricFamily(
            "mintmark_bus_up",
            "1 while other processes can wake this one; otherwise it asks the store each second.",
            float(self._served[0].bus.state.is_up),
        )
        for services in self._served:
            issuer = services.issuer
            if services.backlog.notices is not None:
                notices.add_metric([issuer], services.backlog.notices)
            for name, count in services.audit.counts.items():
                events.add_metric([issuer, name.value], count)
            followers.add_metric([issuer], services.feed.followers)
            feed_fresh.add_metric([issuer], float(services.feed.is_fresh()))
            ring_fresh.add_metric([issuer], float(services.ring.is_fresh()))
            for ring in _known_ring(services):
                generation.add_metric([issuer], ring.generation)
                states = Counter(key.state for key in ring.keys)
                for state in KeyState:
                    keys.add_metric([issuer, state.value], states[state])
                overdue.add_metric([issuer], sum(key.is_overdue(services.ring.now()) for key in ring.keys))
        return (events, followers, bus_up, feed_fresh, ring_fresh, generation, keys, overdue, notices)


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=["issuer", *labels])


def _known_ring(services: Services) -> Iterator[Ring]:
    """The ring as it was last read; nothing before that."""
    with contextlib.suppress(NotReady):
        yield services.ring.view.ring


def _json(value: object, status: int) -> Response:
    headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
    return Response(msgspec.json.encode(value), status, headers=headers)
