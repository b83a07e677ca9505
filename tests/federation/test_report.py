"""Means over clients, by hand."""

import pytest

from fedkim_ray import telemetry
from fedkim_ray.federation.report import (
    ClientReport,
    FailureReport,
    RoundReport,
    export_metrics,
    task_means,
)


def client(client_id: str, **metrics: float) -> ClientReport:
    named = {f"valid/mortality/{name}": value for name, value in metrics.items()}
    return ClientReport(
        client_id=client_id,
        num_examples={"encoders.lab": 5},
        metrics={**named, "train/loss": 0.25, "seconds": 1.5},
        update_norm=2.0,
        bytes_up=10,
    )


CLIENTS = (
    client("a", examples=1, loss_before=4.0, loss_after=1.0, auroc_after=0.5),
    client("b", examples=3, loss_before=8.0, loss_after=1.0),
)


def test_means_are_weighted_by_validation_examples() -> None:
    # (1 * 4 + 3 * 8) / 4 = 7; only a had both labels.
    assert task_means(CLIENTS) == {
        "mortality": {"examples": 4, "loss_before": 7.0, "loss_after": 1.0, "auroc_after": 0.5}
    }


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the numbers in this process, whether or not another test started Ray."""
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)


REPORT = RoundReport(
    round_index=4,
    seconds=2.0,
    phase_seconds={"train": 1.5, "aggregate": 0.25},
    slowest_wait_s=0.5,
    num_retries=0,
    bytes_up=20,
    bytes_down=0,
    clients=CLIENTS,
    num_available=4,
    num_sampled=3,
    kept_groups=(),
    num_spilled=0,
    failures=(FailureReport(client_id="c", cause="ClientLost", message=""),),
    late_updates=("d",),
    tasks={},
)


@pytest.mark.usefixtures("own_registry")
def test_a_rounds_numbers_are_exported() -> None:
    export_metrics(REPORT)
    text = telemetry.render().decode()
    assert "fedkim_round_index 5.0" in text
    assert 'fedkim_phase_seconds_total{phase="train"} ' in text
    assert "fedkim_slowest_wait_seconds_count " in text
    assert 'fedkim_client_loss{client="a"} 0.25' in text
    assert 'fedkim_client_failures_total{cause="ClientLost",client="c"} 1.0' in text
    assert 'fedkim_late_updates_total{client="d"} 1.0' in text


@pytest.mark.usefixtures("own_registry")
def test_a_client_that_delivered_in_the_end_missed_no_round() -> None:
    again = [FailureReport(client_id="twice", cause=c, message="") for c in ("First", "Last")]
    retried = FailureReport(client_id="a", cause="Mended", message="")
    export_metrics(REPORT.model_copy(update={"failures": (retried, *again)}))
    text = telemetry.render().decode()
    assert 'fedkim_client_failures_total{cause="Last",client="twice"} 1.0' in text
    assert "Mended" not in text
    assert "First" not in text


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(("num_available", "has_series"), [(1000, True), (1001, False)])
def test_a_client_among_too_many_has_no_series_of_its_own(
    num_available: int, has_series: bool
) -> None:
    name = f"of-{num_available}"
    crowd = {"clients": (client(name),), "num_available": num_available}
    export_metrics(REPORT.model_copy(update=crowd))
    assert (f'client="{name}"' in telemetry.render().decode()) is has_series
