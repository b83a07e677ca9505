"""What a round leaves behind for people: who took part, what came, what failed."""

from collections import Counter
from collections.abc import Collection, Sequence

from fedkim_ray import metric_names as names
from fedkim_ray import telemetry
from fedkim_ray.types import ClientId, Frozen, TaskId

MEANS = ("loss_before", "loss_after", "auroc_before", "auroc_after", "loss", "auroc")
"""Metrics of a task that are averaged over clients; the last two where nothing was trained."""
MAX_CLIENT_SERIES = 1000
"""Clients above which none has time series of its own: the driver and Prometheus keep each one."""


class ClientReport(Frozen):
    """One client that took part in a round."""

    client_id: ClientId
    num_examples: dict[str, int]
    """Examples by parameter group."""
    metrics: dict[str, float]
    """As the client sent them."""
    update_norm: float
    bytes_up: int

    @property
    def seconds(self) -> float:
        """Training and validation, by the client's own clock."""
        return self.metrics.get("seconds", 0.0)

    @property
    def loss(self) -> float | None:
        """Mean training loss."""
        return self.metrics.get("train/loss")


class FailureReport(Frozen):
    """One client that had no usable update when it was asked."""

    client_id: ClientId
    cause: str
    message: str


class RoundReport(Frozen):
    """One round of client updates and their aggregation; JSON through ``model_dump``."""

    round_index: int
    seconds: float
    """With the wait until a quorum was there."""
    phase_seconds: dict[str, float]
    """From the first plan on; see ``round_times.py``."""
    slowest_wait_s: float
    """Seconds that the round waited after half of its answers had come."""
    num_retries: int
    bytes_up: int
    bytes_down: int
    clients: tuple[ClientReport, ...]
    """Who took part, in client-id order."""
    num_available: int
    """Clients that were there when the round began."""
    num_sampled: int
    """Clients that were asked."""
    kept_groups: tuple[str, ...]
    """Parameter groups that some client trained, but too few: they kept their values."""
    num_spilled: int
    """Updates that waited on the driver's disk."""
    failures: tuple[FailureReport, ...]
    """In order of arrival; a client that failed and then delivered is here too."""
    late_updates: tuple[ClientId, ...]
    """Whose answer to an earlier round came during this one and was discarded."""
    tasks: dict[TaskId, dict[str, float]]
    """Heads on the clients' validation splits: ``examples``, and the means of ``loss_before``,
    ``loss_after``, ``auroc_before``, ``auroc_after`` over clients, weighted by examples."""

    @property
    def failures_by_cause(self) -> dict[str, int]:
        """Number of failures of each cause."""
        return dict(Counter(failure.cause for failure in self.failures))

    @property
    def group_examples(self) -> dict[str, int]:
        """Examples that each parameter group was trained on; absent groups kept their values."""
        total: Counter[str] = Counter()
        for client in self.clients:
            total.update(client.num_examples)
        return dict(sorted(total.items()))


def task_means(clients: Sequence[ClientReport]) -> dict[TaskId, dict[str, float]]:
    """Return ``RoundReport.tasks`` from the clients' own metrics."""
    keys = {name for client in clients for name in client.metrics if name.startswith("valid/")}
    tasks = sorted({name.split("/")[1] for name in keys})
    return {task: _means_of(task, clients) for task in tasks}


def _means_of(task: TaskId, clients: Sequence[ClientReport]) -> dict[str, float]:
    """Average one task's metrics over the clients that sent them."""
    own = {c.client_id: c.metrics.get(f"valid/{task}/examples", 0.0) for c in clients}
    means = {"examples": sum(own.values())}
    for what in MEANS:
        key = f"valid/{task}/{what}"
        pairs = [(c.metrics[key], own[c.client_id]) for c in clients if key in c.metrics]
        if total := sum(weight for _, weight in pairs):
            means[what] = sum(value * weight for value, weight in pairs) / total
    return means


def export_metrics(report: RoundReport) -> None:
    """Send a round's numbers to the metrics exporter."""
    telemetry.set_gauge(names.ROUND_INDEX, report.round_index + 1)
    telemetry.observe(names.ROUND_SECONDS, report.seconds)
    telemetry.observe(names.SLOWEST_WAIT_SECONDS, report.slowest_wait_s)
    for phase, seconds in report.phase_seconds.items():
        telemetry.inc(names.PHASE_SECONDS, seconds, phase=phase)
    telemetry.inc(names.BYTES, report.bytes_up, direction="up")
    telemetry.inc(names.BYTES, report.bytes_down, direction="down")
    if report.num_available <= MAX_CLIENT_SERIES:
        for client in report.clients:
            _export_client(client)
    export_failures(report.failures, {client.client_id for client in report.clients})
    for client_id in report.late_updates:
        telemetry.inc(names.LATE_UPDATES, client=client_id)


def export_failures(failures: Sequence[FailureReport], delivered: Collection[ClientId]) -> None:
    """Send the last failure of each client that took no part in a round to the exporter.

    Args:
        failures: All of the round, in order of arrival.
        delivered: Clients whose update was usable in the end.
    """
    for client_id, cause in {f.client_id: f.cause for f in failures}.items():
        if client_id not in delivered:
            telemetry.inc(names.CLIENT_FAILURES, client=client_id, cause=cause)


def _export_client(client: ClientReport) -> None:
    telemetry.observe(names.CLIENT_SECONDS, client.seconds, client=client.client_id)
    telemetry.set_gauge(names.UPDATE_NORM, client.update_norm, client=client.client_id)
    if client.loss is not None:
        telemetry.set_gauge(names.CLIENT_LOSS, client.loss, client=client.client_id)
    for group, count in client.num_examples.items():
        telemetry.inc(names.CLIENT_EXAMPLES, count, client=client.client_id, group=group)
