"""Metrics in the format of Prometheus: requests, media, time to first audio, and what the engines count."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from maskgen.serving.served import Catalogue

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
GAUGES = {"running": "Requests that decode now.", "waiting": "Requests that wait for a place."}
COUNTERS = {
    "forwards": "Forward passes of the network.",
    "rows": "Rows in all forward passes.",
    "busy_s": "Seconds in forward passes.",
    "refused": "Requests refused because the queue was full.",
    "cancelled": "Requests cancelled or out of time.",
}
"""Fields of `EngineStats` to what they count."""


class Metrics:
    """What a server counts; a registry of its own, so that several servers in one process do not mix."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("maskgen_requests", "Requests by route and status.", ["route", "status"], registry=self.registry)
        self.latency = Histogram(
            "maskgen_request_seconds", "Seconds to the end of an answer.", ["route"], buckets=LATENCY_BUCKETS_S, registry=self.registry
        )
        self.open = Gauge("maskgen_requests_open", "Requests that are read, wait or are answered.", registry=self.registry)
        self.first_audio = Histogram(
            "maskgen_first_audio_seconds", "Seconds to the first audio of a stream.", buckets=LATENCY_BUCKETS_S, registry=self.registry
        )
        self.images = Counter("maskgen_images", "Images made.", ["model"], registry=self.registry)
        self.audio_s = Counter("maskgen_audio_seconds", "Seconds of audio made.", ["model"], registry=self.registry)
        self.heard_s = Counter("maskgen_transcribed_seconds", "Seconds of audio transcribed.", ["model"], registry=self.registry)
        self.registry.register(_EngineCollector(catalogue))

    @property
    def text(self) -> bytes:
        """All of them in the exposition format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """What the engines count, read when it is asked for."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        models = self.catalogue.models.values()
        for name, text in GAUGES.items():
            gauge = GaugeMetricFamily(f"maskgen_engine_{name}", text, labels=["model"])
            for one in models:
                gauge.add_metric([one.name], float(getattr(one.engine.stats, name)))
            yield gauge
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"maskgen_engine_{name}", text, labels=["model"])
            for one in models:
                counter.add_metric([one.name], float(getattr(one.engine.stats, name)))
            yield counter
