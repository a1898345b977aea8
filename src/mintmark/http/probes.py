"""/livez, /readyz and /metrics: for whoever runs the node."""

from collections import Counter
from collections.abc import Iterable

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from mintmark.core.key import KeyState
from mintmark.errors import NotReady
from mintmark.http.errors import JSON, NO_STORE
from mintmark.http.request import Incoming
from mintmark.server.services import Services


class Probes:
    """What an orchestrator and a monitor ask of one process."""

    def __init__(self, services: Services) -> None:
        self._health = services.health
        self._metrics = CollectorRegistry(auto_describe=False)
        self._metrics.register(_Metrics(services))

    async def live(self, _: Incoming) -> Response:
        """200 for as long as this process answers at all."""
        return _json({"status": "live"}, 200)

    async def ready(self, _: Incoming) -> Response:
        """200, or 503 with every reason why requests should go elsewhere."""
        reasons = await self._health.reasons()
        if reasons:
            return _json({"status": "not ready", "reasons": reasons}, 503)
        return _json({"status": "ready", "reasons": []}, 200)

    async def metrics(self, _: Incoming) -> Response:
        """This process's numbers in the text form of Prometheus."""
        return Response(
            generate_latest(self._metrics),
            headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": NO_STORE},
        )


class _Metrics(Collector):
    # Labels come from our own enumerations alone: a label that strangers can choose is a leak of memory.
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        services = self._services
        events = CounterMetricFamily(
            "mintmark_events", "Events since this process started.", labels=["event"]
        )
        for name, count in services.audit.counts.items():
            events.add_metric([name.value], count)
        yield events
        yield GaugeMetricFamily(
            "mintmark_feed_followers", "Open streams of the revocation feed.", services.feed.followers
        )
        yield GaugeMetricFamily(
            "mintmark_feed_fresh", "1 while heartbeats may be sent.", float(services.feed.is_fresh())
        )
        yield GaugeMetricFamily(
            "mintmark_ring_fresh", "1 while the key ring was read lately.", float(services.ring.is_fresh())
        )
        try:
            ring = services.ring.view.ring
        except NotReady:
            return
        yield GaugeMetricFamily("mintmark_ring_generation", "Changes of the key ring.", ring.generation)
        keys = GaugeMetricFamily("mintmark_keys", "Keys of the ring by state.", labels=["state"])
        states = Counter(key.state for key in ring.keys)
        for state in KeyState:
            keys.add_metric([state.value], states[state])
        yield keys


def _json(value: object, status: int) -> Response:
    headers = {"Content-Type": JSON, "Cache-Control": NO_STORE}
    return Response(msgspec.json.encode(value), status, headers=headers)
