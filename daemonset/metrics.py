"""What an agent counts, for Prometheus to ask. Made by `main`, served by `health`.

By hand: prometheus_client is what operator and admission use, and would be a megabyte of each node's memory.

Format: https://prometheus.io/docs/instrumenting/exposition_formats (text, 0.0.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..crds.metrics import AGENT, COMPONENT, Metric, Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = tuple[str, ...]


class Metrics:
    """One agent's values.

    Attributes:
        read: returns what is read when someone asks.
    """

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[Reading]] = tuple
        self._counters: dict[Metric, dict[_Labels, float]] = {}
        # of each histogram or summary: how many fell into each bucket, those beyond the last, and their sum
        self._observed: dict[Metric, dict[_Labels, list[float]]] = {}

    def keep(self, metric: Metric, labels: Iterable[_Labels]) -> None:
        """Begin a counter, a histogram or a summary at zero for the given values of labels."""
        for values in labels:
            if metric.type == "counter":
                self._counters.setdefault(metric, {}).setdefault(values, 0.0)
            else:
                nothing = [0.0] * (len(metric.buckets) + 2)
                self._observed.setdefault(metric, {}).setdefault(values, nothing)

    def count(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        self.keep(metric, [labels])
        self._counters[metric][labels] += by

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add to a histogram or a summary."""
        self.keep(metric, [labels])
        values = self._observed[metric][labels]
        values[sum(seconds > bound for bound in metric.buckets)] += 1
        values[-1] += seconds

    def text(self) -> str:
        """Return all values in the text format."""
        read: dict[Metric, dict[_Labels, float]] = {}
        for reading in self.read():
            read.setdefault(reading.metric, {})[reading.labels] = reading.value
        lines: list[str] = []
        for metric, simple in (*self._counters.items(), *read.items()):
            lines += _head(metric)
            lines += [
                f"{metric.name}{_labels(metric, labels)} {_number(value)}" for labels, value in simple.items()
            ]
        for metric, observed in self._observed.items():
            lines += _head(metric)
            for labels, values in observed.items():
                lines += _distribution(metric, labels, values)
        return "\n".join(lines) + "\n"


def _head(metric: Metric) -> list[str]:
    escaped = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    return [f"# HELP {metric.name} {escaped}", f"# TYPE {metric.name} {metric.type}"]


def _distribution(metric: Metric, labels: _Labels, values: list[float]) -> Iterator[str]:
    own, total = _labels(metric, labels), sum(values[:-1])
    if metric.type == "histogram":
        so_far = 0.0
        for bound, count in zip((*metric.buckets, None), values, strict=False):
            so_far += count
            edge = "+Inf" if bound is None else repr(float(bound))
            yield f"{metric.name}_bucket{_labels(metric, labels, le=edge)} {so_far:.0f}"
    yield f"{metric.name}_sum{own} {values[-1]!r}"
    yield f"{metric.name}_count{own} {total:.0f}"


def _labels(metric: Metric, values: _Labels, **more: str) -> str:
    own = (AGENT, *values) if COMPONENT in metric.labels else values
    pairs = {**dict(zip(metric.labels, own, strict=True)), **more}
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Return a number whole: what `g` would round to six digits is still counted one by one."""
    return f"{value:.0f}" if float(value).is_integer() else repr(float(value))
