"""The metric table, and the way from a call to Prometheus' text."""

import pytest

from fedkim_ray import metric_names as names
from fedkim_ray import telemetry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the numbers in this process, whether or not another test started Ray."""
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)


@pytest.mark.parametrize("metric", names.METRICS.values(), ids=lambda m: m.name)
def test_names_say_their_unit_and_histograms_have_rising_buckets(metric: names.Metric) -> None:
    assert metric.name.startswith("fedkim_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert (metric.unit == "seconds") == ("_seconds" in metric.name)
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def counted(name: str, **labels: str) -> float:
    """What the registry holds now; other tests of this process count there too."""
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0


def test_values_appear_under_their_names_and_labels() -> None:
    below = {"task": "covid19", "expert": "0", "le": "0.2"}
    above = below | {"le": "0.3"}
    bucket = "fedkim_expert_weight_bucket"
    before = counted("fedkim_tokens_total"), counted(bucket, **below), counted(bucket, **above)
    telemetry.inc(names.TOKENS, 3)
    telemetry.inc(names.TOKENS, 4)
    telemetry.set_gauge(names.ROUND_INDEX, 2)
    telemetry.observe(names.EXPERT_WEIGHT, 0.25, task="covid19", expert=0)
    after = counted("fedkim_tokens_total"), counted(bucket, **below), counted(bucket, **above)
    assert [now - then for now, then in zip(after, before, strict=True)] == [7.0, 0.0, 1.0]
    assert "fedkim_round_index 2.0" in telemetry.render().decode()


def test_a_call_that_breaks_the_declaration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fedkim_tokens_total is a counter .* a gauge"):
        telemetry.set_gauge(names.TOKENS, 1.0)
    with pytest.raises(ValueError, match=r"labels \['task'\]; .* with \['tsk'\]"):
        telemetry.observe(names.REQUEST_SECONDS, 1.0, tsk="covid19")


class FakeGauge:
    """Takes what Ray's own gauge would."""

    def __init__(self) -> None:
        self.told: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Note what was told."""
        self.told.append((value, tags))


def test_inside_ray_a_gauge_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = FakeGauge()
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: True)
    monkeypatch.setattr(telemetry, "_ray_metric", lambda metric: gauge)
    monkeypatch.setattr(telemetry, "_last_values", {})
    monkeypatch.setattr(telemetry, "_start_repeating", lambda: None)
    telemetry.set_gauge(names.CLIENT_LOSS, 0.5, client="north")
    telemetry.set_gauge(names.CLIENT_LOSS, 0.4, client="north")
    telemetry._repeat()
    assert gauge.told[2:] == [(0.4, {"client": "north"})]
