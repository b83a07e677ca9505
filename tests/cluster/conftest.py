"""Where the cluster's files are, and what they ask Prometheus for."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
MONITORING = CLUSTER / "monitoring"
RULES = sorted((MONITORING / "prometheus/rules").glob("*.yml"))
DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
NAME = re.compile(r"\b(?:ray|fedkim)_[a-z_0-9]+|\bfedkim:[a-z_0-9:]+")


def rules(kind: str) -> list[dict[str, str]]:
    """Return all rules that have the key ``alert`` or ``record``."""
    groups = [g for file in RULES for g in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panel_queries() -> dict[str, str]:
    """Return every query of every dashboard by ``dashboard / panel / line``."""
    return {
        f"{page['uid']} / {panel['title']} / {target['refId']}": target["expr"]
        for page in (json.loads(file.read_text()) for file in DASHBOARDS)
        for panel in page["panels"]
        for target in panel["targets"]
    }


def dashboards_source() -> ModuleType:
    """Return the module that the dashboards' JSON is written by."""
    path = MONITORING / "grafana/dashboards.py"
    spec = importlib.util.spec_from_file_location("fedkim_dashboards", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool; where Prometheus is absent the test is skipped."""
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is absent: install Prometheus (Debian: apt-get install prometheus)")
    return found
