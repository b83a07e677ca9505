"""Grafana's dashboards, described; run this file to write their JSON.

A panel is a title, a unit, and queries with their legends. Histograms are read by their buckets
and counts alone: Ray's exporter fills `_sum` from bucket midpoints.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
"""Of a panel, in Grafana's grid of 24 columns."""


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    """One of Grafana's units: ``s``, ``bytes``, ``percentunit``, ``short``, ``reqps``."""
    queries: tuple[tuple[str, str], ...]
    """Expression and legend of each line."""
    help: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One page of graphs."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def quantiles(metric: str, by: str = "", window: str = "5m") -> tuple[tuple[str, str], ...]:
    """Return the median and the 95th and 99th percentile of a histogram, for each ``by``."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[{window}])))",
            f"p{round(100 * q)}{name}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def rate(metric: str, by: str, window: str = "5m") -> tuple[tuple[str, str], ...]:
    """Return a counter's rate for each value of ``by``."""
    return ((f"sum by ({by}) (rate({metric}[{window}]))", f"{{{{{by}}}}}"),)


def each(metric: str, by: str) -> tuple[tuple[str, str], ...]:
    """Return a gauge for each value of ``by``; processes that tell the same value count once."""
    return ((f"max by ({by}) ({metric})", f"{{{{{by}}}}}"),)


FEDERATION = Dashboard(
    "fedkim-federation",
    "FedKIM federation",
    (
        Panel("Rounds finished", "short", (("max(ray_fedkim_round_index)", "rounds"),)),
        Panel(
            "Quiet for",
            "s",
            (
                ("time() - max(ray_fedkim_last_event_timestamp_seconds)", "since the last event"),
                ("max(ray_fedkim_quiet_limit_seconds)", "limit"),
            ),
            "A run that crosses the limit has stalled; only while one goes on.",
        ),
        Panel("Runs under way", "short", (("sum(ray_fedkim_run_active)", "runs"),)),
        Panel(
            "Failed runs",
            "short",
            (("sum by (cause) (ray_fedkim_run_failures_total)", "{{cause}}"),),
            "Since the cluster began, by the error that ended the run; Ctrl-C and aborts are none.",
        ),
        Panel("Seconds of a round", "s", quantiles("ray_fedkim_round_seconds", window="1h")),
        Panel(
            "Seconds of a client's round",
            "s",
            quantiles("ray_fedkim_client_seconds", "client", "1h")[:1],
        ),
        Panel(
            "Where the time goes",
            "s",
            (("sum by (phase) (increase(ray_fedkim_phase_seconds_total[1h]))", "{{phase}}"),),
            "Seconds of the last hour by phase of a round; clients' start is in none.",
        ),
        Panel(
            "Waiting for the slowest client",
            "s",
            quantiles("ray_fedkim_slowest_wait_seconds", window="1h")[:2],
            "From when half of a round's answers had come to the last, or to the timeout.",
        ),
        Panel("Training loss", "short", each("ray_fedkim_client_loss", "client")),
        Panel(
            "Norm of updates",
            "short",
            each("ray_fedkim_update_norm", "client"),
            "One far above the others: mislabelled data, another unit, or an attack.",
        ),
        Panel(
            "Missed rounds",
            "short",
            (
                (
                    "sum by (client, cause) (increase(ray_fedkim_client_failures_total[1h]))",
                    "{{client}} {{cause}}",
                ),
                (
                    "sum by (client) (increase(ray_fedkim_late_updates_total[1h]))",
                    "{{client}} late",
                ),
            ),
        ),
        Panel("Parameters moved", "Bps", rate("ray_fedkim_bytes_total", "direction")),
        Panel(
            "Examples trained on",
            "short",
            (("sum by (group) (increase(ray_fedkim_client_examples_total[1h]))", "{{group}}"),),
            "By parameter group: one without examples keeps its old value.",
        ),
        Panel("Nodes", "short", (("fedkim:nodes:count", "alive"),), "Busy or idle."),
        Panel(
            "Object store",
            "bytes",
            (("sum by (Location) (ray_object_store_memory)", "{{Location}}"),),
        ),
    ),
)

INJECTION = Dashboard(
    "fedkim-injection",
    "FedKIM injection",
    (
        Panel("Loss of the last step", "short", (("max(ray_fedkim_injection_step_loss)", "loss"),)),
        Panel("Loss by task, last round", "short", each("ray_fedkim_injection_loss", "task")),
        Panel(
            "Entropy of the expert weights",
            "short",
            (("max(ray_fedkim_injection_routing_entropy_nats)", "mean of the last step"),),
            "In nats, last round: 0 is one expert alone, ln(experts) all alike.",
        ),
        Panel(
            "Load of each expert",
            "percentunit",
            each("ray_fedkim_injection_expert_load", "expert"),
            "Mean weight over the examples of the last step, last round.",
        ),
        Panel(
            "Steps a minute",
            "short",
            (("60 * sum(rate(ray_fedkim_injection_steps_total[5m]))", "steps"),),
        ),
        Panel("Seconds a step", "s", quantiles("ray_fedkim_injection_step_seconds")),
        Panel(
            "GPU busy",
            "percent",
            (("avg by (GpuIndex) (ray_node_gpus_utilization)", "GPU {{GpuIndex}}"),),
        ),
        Panel(
            "GPU memory",
            "decmbytes",
            (
                ("sum(ray_node_gram_used)", "used"),
                ("sum(ray_node_gram_available)", "free"),
            ),
        ),
        Panel("CPU busy", "percent", (("avg by (ip) (ray_node_cpu_utilization)", "{{ip}}"),)),
        Panel(
            "Memory of workers",
            "bytes",
            (("sum by (Component) (ray_component_rss_bytes)", "{{Component}}"),),
        ),
        Panel("Disk free", "bytes", (("min by (ip) (ray_node_disk_free)", "{{ip}}"),)),
    ),
)

SERVING = Dashboard(
    "fedkim-serving",
    "FedKIM serving",
    (
        Panel("Questions a second", "reqps", rate("ray_fedkim_requests_total", "status")),
        Panel("Questions a second by task", "reqps", rate("ray_fedkim_requests_total", "task")),
        Panel(
            "Bundle that answers",
            "reqps",
            rate("ray_fedkim_requests_total", "bundle_version"),
            "Two lines during a rolling update.",
        ),
        Panel("Latency", "s", quantiles("ray_fedkim_request_seconds")),
        Panel("First token", "s", quantiles("ray_fedkim_first_token_seconds")),
        Panel(
            "Where the time goes, 95th percentile",
            "s",
            tuple(
                (quantiles(f"ray_fedkim_{stage}_seconds")[1][0], stage)
                for stage in ("decode", "queue", "encode", "prefill", "token")
            ),
        ),
        Panel(
            "Budgets burnt",
            "percentunit",
            (
                ("fedkim:slow_ratio:rate1h", "slower than 2.5 s, of 1 %"),
                ("fedkim:error_ratio:rate1h", "server errors, of 0.5 %"),
            ),
        ),
        Panel(
            "Folded adapters",
            "reqps",
            rate("ray_fedkim_adapter_requests_total", "result"),
            "Of the vLLM engine: a miss folds one from the bundle.",
        ),
        Panel("Refused", "reqps", rate("ray_fedkim_rejections_total", "cause")),
        Panel(
            "Waiting and under way",
            "short",
            (
                ("sum(ray_fedkim_queue_length)", "waiting"),
                ("sum(ray_fedkim_running_answers)", "being generated"),
            ),
        ),
        Panel("Rows in a forward pass", "short", quantiles("ray_fedkim_batch_size", "stage")[:2]),
        Panel("Tokens a second", "short", (("sum(rate(ray_fedkim_tokens_total[5m]))", "tokens"),)),
        Panel(
            "Replicas",
            "short",
            (
                (
                    "sum by (deployment) (ray_serve_deployment_replica_healthy)",
                    "{{deployment}} healthy",
                ),
                ("fedkim:replica_starts:count15m", "{{deployment}} started, 15 minutes"),
            ),
        ),
    ),
)

ROUTING = Dashboard(
    "fedkim-routing",
    "FedKIM routing",
    (
        Panel(
            "Answers by expert that has more than half the weight",
            "percentunit",
            (
                (
                    "1 - sum by (task, expert) (rate(ray_fedkim_expert_weight_bucket"
                    '{le="0.5"}[30m])) / sum by (task, expert) '
                    "(rate(ray_fedkim_expert_weight_count[30m])) > 0",
                    "{{task}}: expert {{expert}}",
                ),
            ),
        ),
        Panel(
            "Median weight of an expert",
            "percentunit",
            quantiles("ray_fedkim_expert_weight", "expert", "30m")[:1],
        ),
        Panel(
            "Entropy of the weights, median",
            "short",
            quantiles("ray_fedkim_routing_entropy_nats", "task", "30m")[:1],
            "In nats: 0 is one expert alone, ln(experts) all alike.",
        ),
        Panel(
            "An expert dominates",
            "percentunit",
            (("fedkim:expert_dominates:ratio30m > 0", "{{task}}: expert {{expert}}"),),
            "Share of answers in which it has more than 0.9 of the weight.",
        ),
        Panel("Questions by task", "reqps", rate("ray_fedkim_requests_total", "task", "30m")),
        Panel(
            "What is served",
            "short",
            (
                (
                    "count by (model, bundle_version) (ray_fedkim_bundle_info)",
                    "{{model}} {{bundle_version}}",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (FEDERATION, INJECTION, SERVING, ROUTING)


def as_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["fedkim"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS // WIDTH)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def write(folder: Path) -> None:
    """Write each dashboard's JSON."""
    folder.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        text = json.dumps(as_grafana(dashboard), indent=1)
        (folder / f"{dashboard.uid}.json").write_text(text + "\n")


if __name__ == "__main__":
    write(OUT)
