"""Rules and dashboards against the metric table, Ray's own names, and the runbook."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from fedkim_ray.metric_names import METRICS
from tests.cluster.conftest import (
    DASHBOARDS,
    MONITORING,
    NAME,
    RULES,
    dashboards_source,
    installed,
    panel_queries,
    rules,
)

RUNBOOK = Path(__file__).parents[2] / "docs/operations.md"
RAYS_OWN = {
    "ray_component_rss_bytes",
    "ray_node_cpu_utilization",
    "ray_node_disk_free",
    "ray_node_disk_usage",
    "ray_node_gpus_utilization",
    "ray_node_gram_available",
    "ray_node_gram_used",
    "ray_node_mem_total",
    "ray_object_store_memory",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_deployment_replica_starts_total",
}
"""Of Ray's exporter; the live scrape shows the ones that need no GPU, Ray's source the others."""
OURS = {
    f"ray_{metric.name}{suffix}"
    for metric in METRICS.values()
    for suffix in (("_bucket", "_count") if metric.kind == "histogram" else ("",))
}
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in rules("alert")},
    **{rule["record"]: rule["expr"] for rule in rules("record")},
    **panel_queries(),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_name_in_a_rule_or_panel_is_one_that_is_exported(name: str) -> None:
    known = OURS | RAYS_OWN | {rule["record"] for rule in rules("record")}
    used = set(NAME.findall(EXPRESSIONS[name]))
    assert used
    assert used <= known, f"{name} asks for {sorted(used - known)}"


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    shown = " ".join(panel_queries().values())
    missing = [
        m.name for m in METRICS.values() if not re.search(rf"ray_{m.name}(_bucket)?\b", shown)
    ]
    assert missing == []


def test_rays_gpu_names_are_rays() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    known = {f"ray_{name}" for name in METRICS_GAUGES}
    wanted = {n for n in RAYS_OWN if n.startswith(("ray_node", "ray_component"))}
    assert wanted <= known


def test_labels_in_queries_are_the_metrics_labels() -> None:
    # Ray adds some labels of its own; by (...) of one of our metrics names one of its labels.
    for name, query in panel_queries().items():
        for by, metric in re.findall(r"by \(([a-z_, ]+)\) \((?:\w+\()?(ray_fedkim_[a-z_]+)", query):
            plain = metric.removeprefix("ray_").removesuffix("_bucket").removesuffix("_count")
            labels = {label.strip() for label in by.split(",")} - {"le"}
            assert labels <= set(METRICS[plain].labels), f"{name}: {query}"


def test_buckets_named_in_queries_are_buckets() -> None:
    for name, query in EXPRESSIONS.items():
        for metric, edge in re.findall(r'ray_(fedkim_\w+)_bucket\{le="([^"]+)"\}', query):
            assert float(edge) in METRICS[metric].buckets, name


def test_the_dashboards_json_is_what_the_description_gives(tmp_path: Path) -> None:
    dashboards_source().write(tmp_path)
    again = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert again == {file.name: json.loads(file.read_text()) for file in DASHBOARDS}


def test_each_alert_has_a_chapter_in_the_runbook() -> None:
    chapters = re.findall(r"^#+ (Fedkim\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    alerts = [rule["alert"] for rule in rules("alert")]
    assert sorted(chapters) == sorted(alerts)
    for rule in rules("alert"):
        anchor = f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == anchor


def test_each_alert_is_tried_firing() -> None:
    tried = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tried
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules("alert")}


@pytest.mark.prometheus
def test_prometheus_own_tool_accepts_rules_and_configuration() -> None:
    promtool = installed("promtool")
    config = MONITORING / "prometheus/prometheus.yml"
    for command in (
        ["check", "rules", *RULES],
        ["check", "config", config],
        ["test", "rules", Path(__file__).parent / "alerts_test.yml"],
    ):
        done = subprocess.run(
            [promtool, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
