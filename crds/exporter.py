"""What a process counts, for Prometheus to ask: values of the table in `metrics`. Made where each starts.

Served by `operator/probes` and `daemonset/health`. What is known anyway is read when someone asks; the rest
is counted as it happens.
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
    Summary,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from . import metrics
from .metrics import COMPONENT, Metric, Reading

disable_created_metrics()  # a second series for each that is there, which nobody asks for


_Kept = Counter | Histogram | Summary


class Metrics(Collector):
    """One process's values.

    Attributes:
        component: `operator`, `admission` or `agent`.
        read: returns what is read when someone asks.
    """

    def __init__(self, component: str) -> None:
        self.component = component
        self.read: Callable[[], Iterable[Reading]] = tuple
        self.registry = CollectorRegistry()
        if component != metrics.AGENT:  # whom anyone may ask who reaches the node
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._kept: dict[str, _Kept] = {}
        self.registry.register(self)

    def keep(self, metric: Metric, labels: Iterable[tuple[str, ...]] = ((),)) -> None:
        """Keep a metric here, at zero to begin with for the given values of labels."""
        for values in labels:
            self._one(metric, values)

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        one = self._one(metric, labels)
        assert isinstance(one, Counter), metric.name  # noqa: S101 - the table says so
        one.inc(by)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram or a summary."""
        one = self._one(metric, labels)
        assert isinstance(one, Histogram | Summary), metric.name  # noqa: S101 - the table says so
        one.observe(seconds)

    def text(self, accepted: str = "") -> tuple[bytes, str]:
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

    def _one(self, metric: Metric, labels: tuple[str, ...]) -> _Kept:
        """Return the series with these labels, which begins at zero where it is not there yet."""
        kept = self._kept.get(metric.name)
        if kept is None:
            kept = self._kept[metric.name] = self._made(metric)
        values = self._values(metric, labels)
        return kept.labels(*values) if values else kept

    def _made(self, metric: Metric) -> _Kept:
        if metric.type == "histogram":
            return Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
        made = Summary if metric.type == "summary" else Counter
        return made(metric.name, metric.help, metric.labels, registry=self.registry)

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
