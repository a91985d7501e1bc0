"""What the operator and the admission count, for Prometheus to ask. Made by `main` and `admission`.

Served by `probes`. What is known anyway is read when someone asks; the rest is counted as it happens.
The agent has a module of its own (`daemonset/metrics.py`): this library is a megabyte of its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import groupby

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from ..crds import metrics
from ..crds.metrics import COMPONENT, Metric, Reading

disable_created_metrics()  # a second series for each that is there, which nobody asks for


class Metrics(Collector):
    """One process's values.

    Attributes:
        component: `operator` or `admission`.
        read: returns what is read when someone asks.
    """

    def __init__(self, component: str) -> None:
        self.component = component
        self.read: Callable[[], Iterable[Reading]] = tuple
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._kept: dict[str, Counter | Histogram] = {}
        self._shown: set[str] = set()
        self.registry.register(self)

    def keep(self, metric: Metric, labels: Iterable[tuple[str, ...]] = ((),)) -> None:
        """Keep a counter or a histogram here, at zero to begin with for the given values of labels."""
        kept = self._kept.get(metric.name)
        if kept is None:
            kept = self._kept[metric.name] = self._made(metric)
        if metric.labels:
            for values in labels:
                kept.labels(*self._values(metric, values))

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        one = self._kept[metric.name]
        values = self._values(metric, labels)
        one = one.labels(*values) if values else one
        assert isinstance(one, Counter), metric.name  # noqa: S101 - the table says so
        one.inc(by)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram."""
        one = self._kept[metric.name]
        values = self._values(metric, labels)
        one = one.labels(*values) if values else one
        assert isinstance(one, Histogram), metric.name  # noqa: S101 - the table says so
        one.observe(seconds)

    def text(self, accepted: str) -> tuple[bytes, str]:
        """Return all values in a format that is accepted (the HTTP header `Accept`), and its content type."""
        encode, content_type = choose_encoder(accepted)
        return encode(self.registry), content_type

    def describe(self) -> Iterable[Family]:
        """Return nothing: what is read may be asked for only once all is known."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Return what is read when someone asks."""
        readings = sorted(self.read(), key=lambda one: one.metric.name)
        for _, several in groupby(readings, key=lambda one: one.metric.name):
            alike = list(several)
            metric = alike[0].metric
            made = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = made(metric.name, metric.help, labels=metric.labels)
            for one in alike:
                family.add_metric(self._values(metric, one.labels), one.value)
            yield family

    def _made(self, metric: Metric) -> Counter | Histogram:
        if metric.type == "histogram":
            return Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _values(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        return (self.component, *labels) if COMPONENT in metric.labels else labels


def of_loop(component: str, kinds: Collection[str], writes: Iterable[str]) -> Metrics:
    """Return what every process with a loop counts: about these kinds of objects, and these writes."""
    made = Metrics(component)
    made.keep(metrics.ROUND_DURATION, [()])
    made.keep(metrics.RETRIES, [("list",), ("start",), ("write",)])
    made.keep(metrics.WATCH_EVENTS, [(kind,) for kind in kinds])
    made.keep(metrics.MISSED_CHANGES, [(kind,) for kind in kinds])
    made.keep(metrics.WATCH_RESTARTS, [(kind, "expired") for kind in kinds])
    made.keep(metrics.API_WRITES, [(write, result) for write in writes for result in metrics.RESULTS])
    return made
