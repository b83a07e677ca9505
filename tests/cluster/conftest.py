"""Where the cluster's files are, and what they ask Prometheus for."""

import importlib.util
import json
import os
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
    return {name: target["expr"] for name, target in panel_targets().items()}


def panel_targets() -> dict[str, dict[str, str]]:
    """Return every line of every dashboard, its query and legend, by the same names."""
    return {
        f"{page['uid']} / {panel['title']} / {target['refId']}": target
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


def installed(program: str) -> str:
    """Return a program's path; where it is absent skip, or fail where CI says that it must be."""
    found = shutil.which(program)
    if not found and os.environ.get("FEDKIM_REQUIRE_PROMETHEUS"):
        pytest.fail(f"FEDKIM_REQUIRE_PROMETHEUS is set and {program} is absent")
    if not found:
        pytest.skip(f"{program} is absent: Debian has it as apt-get install prometheus")
    return found
