"""Reads what Prometheus would: values by name and labels, and whether the table of metrics has them."""

from __future__ import annotations

from collections.abc import Iterable

from hauberk.crds.metrics import Metric
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

_SUFFIX = {"counter": "_total"}


def families(text: str) -> dict[str, Family]:
    return {one.name: one for one in text_string_to_metric_families(text)}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(text).values()
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def check(text: str, known: Iterable[Metric]) -> set[str]:
    """Check that a scrape of Hauberk's is of these metrics, with their types and labels; return which."""
    by_name = {one.name.removesuffix(_SUFFIX.get(one.type, "")): one for one in known}
    seen: set[str] = set()
    for name, family in families(text).items():
        if not name.startswith("hauberk_"):
            continue
        metric = by_name[name]
        assert family.type == metric.type, name
        assert family.documentation == metric.help
        seen.add(metric.name)
        for sample in family.samples:
            extra = {"le"} if sample.name.endswith("_bucket") else set[str]()
            assert set(sample.labels) == {*metric.labels, *extra}, sample
    return seen
