"""The one place where a metric leaves a process.

Inside Ray a value goes to Ray's exporter, which merges all processes of a node. Elsewhere it goes
to ``REGISTRY``, this process's own, which ``render`` writes in Prometheus' text format.

Ray forgets a gauge about twenty seconds after it was last set, and a round or a queue may stand
still for longer: a thread sets each gauge again for as long as its process lives.
"""

import sys
import threading
import time
from functools import cache
from typing import Any, TypeAlias

import prometheus_client

from fedkim_ray.metric_names import Metric

REGISTRY = prometheus_client.CollectorRegistry()
LabelValue: TypeAlias = str | int
REPEAT_S = 5.0
"""Seconds between two settings of a gauge; Ray's exporter hears of them every ten."""
_last_values: dict[tuple[Metric, frozenset[tuple[str, str]]], float] = {}


def inc(metric: Metric, amount: float = 1.0, **labels: LabelValue) -> None:
    """Add ``amount``, at least 0, to a counter."""
    tags = _tags(metric, "counter", labels)
    if not _ray_is_up():
        _own(metric, tags).inc(amount)
    elif amount > 0:  # Ray refuses to add nothing
        _ray_metric(metric).inc(amount, tags=tags)


def set_gauge(metric: Metric, value: float, **labels: LabelValue) -> None:
    """Set a gauge."""
    tags = _tags(metric, "gauge", labels)
    if _ray_is_up():
        _ray_metric(metric).set(value, tags=tags)
        _last_values[metric, frozenset(tags.items())] = value
        _start_repeating()
    else:
        _own(metric, tags).set(value)


def observe(metric: Metric, value: float, **labels: LabelValue) -> None:
    """Add one value to a histogram."""
    tags = _tags(metric, "histogram", labels)
    if _ray_is_up():
        _ray_metric(metric).observe(value, tags=tags)
    else:
        _own(metric, tags).observe(value)


def render() -> bytes:
    """Return this process's own registry in Prometheus' text format."""
    return prometheus_client.generate_latest(REGISTRY)


def _tags(metric: Metric, kind: str, labels: dict[str, LabelValue]) -> dict[str, str]:
    """Hold a call against the metric's declaration.

    Raises:
        ValueError: the metric is of another kind, or has other labels.
    """
    if metric.kind != kind or set(labels) != set(metric.labels):
        raise ValueError(
            f"{metric.name} is a {metric.kind} with the labels {list(metric.labels)}; "
            f"the call is for a {kind} with {sorted(labels)}."
        )
    return {name: str(value) for name, value in labels.items()}


@cache
def _start_repeating() -> None:
    """Start the thread that keeps gauges alive, once a process."""
    threading.Thread(target=_repeat_for_ever, name="fedkim-gauges", daemon=True).start()


def _repeat_for_ever() -> None:
    while True:
        time.sleep(REPEAT_S)
        if _ray_is_up():
            _repeat()


def _repeat() -> None:
    for (metric, tags), value in list(_last_values.items()):
        _ray_metric(metric).set(value, tags=dict(tags))


def _ray_is_up() -> bool:
    ray = sys.modules.get("ray")  # a process that never imported Ray is in no cluster
    return ray is not None and bool(ray.is_initialized())


@cache
def _ray_metric(metric: Metric) -> Any:
    from ray.util import metrics

    text, labels = _documentation(metric), metric.labels
    if metric.kind == "counter":
        return metrics.Counter(metric.name, text, labels)
    if metric.kind == "gauge":
        return metrics.Gauge(metric.name, text, labels)
    return metrics.Histogram(metric.name, text, list(metric.buckets), labels)


@cache
def _own_metric(metric: Metric) -> Any:
    name, text, labels = metric.name, _documentation(metric), metric.labels
    if metric.kind == "counter":
        return prometheus_client.Counter(name, text, labels, registry=REGISTRY)
    if metric.kind == "gauge":
        return prometheus_client.Gauge(name, text, labels, registry=REGISTRY)
    edges = metric.buckets
    return prometheus_client.Histogram(name, text, labels, registry=REGISTRY, buckets=edges)


def _documentation(metric: Metric) -> str:
    return f"{metric.help} [{metric.unit}]"


def _own(metric: Metric, tags: dict[str, str]) -> Any:
    own = _own_metric(metric)
    return own.labels(**tags) if tags else own
