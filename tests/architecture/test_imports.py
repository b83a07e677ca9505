"""The arrows of ARCHITECTURE.md, checked against the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = ("types", "errors", "config", "metric_names", "storage", "drawing")
GROUND = {f"fedkim_ray.{leaf}" for leaf in LEAVES}
TELEMETRY = {"fedkim_ray.telemetry"}
RAY_TRAIN = {"fedkim_ray.ray_placement", "fedkim_ray.ray_lean"}
DATA = GROUND | {"fedkim_ray.data"}
ENCODERS = DATA | {"fedkim_ray.encoders"}
FEDERATION = ENCODERS | TELEMETRY | RAY_TRAIN
INJECTION = ENCODERS | TELEMETRY | RAY_TRAIN
BUNDLE = INJECTION | {"fedkim_ray.injection"}
EVALUATION = BUNDLE | {"fedkim_ray.bundle", "fedkim_ray.ray_connection"}
MAY_IMPORT = {
    "fedkim_ray.data": DATA,
    "fedkim_ray.encoders": ENCODERS,
    "fedkim_ray.federation": FEDERATION | {"fedkim_ray.federation"},
    "fedkim_ray.injection": INJECTION | {"fedkim_ray.injection"},
    "fedkim_ray.bundle": BUNDLE | {"fedkim_ray.bundle"},
    "fedkim_ray.evaluation": EVALUATION | {"fedkim_ray.evaluation"},
    "serve": EVALUATION | {"fedkim_ray.evaluation", "serve"},
}


def imported_modules(file: Path) -> set[str]:
    """Names of all modules a file imports, at any depth of the file."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return modules


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_one_way(package: str) -> None:
    for file in python_files(package):
        for module in imported_modules(file):
            ours = inside(module, "fedkim_ray") or inside(module, "serve")
            allowed = module == "fedkim_ray" or any(inside(module, p) for p in MAY_IMPORT[package])
            assert not ours or allowed, f"{file.relative_to(ROOT)} imports {module}."


def test_ray_stays_in_the_outermost_files() -> None:
    outermost = {"pipeline.py", "telemetry.py"}
    for file in python_files("fedkim_ray"):
        if file.name.startswith("ray_") or file.name in outermost or file.parent.name == "cli":
            continue
        imported = {m for m in imported_modules(file) if inside(m, "ray")}
        assert not imported, f"{file.relative_to(ROOT)} imports {sorted(imported)}."


def test_deepspeed_stays_in_injection() -> None:
    for file in [*python_files("fedkim_ray"), *python_files("serve")]:
        imported = {m for m in imported_modules(file) if inside(m, "deepspeed")}
        assert not imported or file.parent.name == "injection", f"{file} imports deepspeed."


def test_nothing_is_ever_pickled() -> None:
    for file in [*python_files("fedkim_ray"), *python_files("serve")]:
        imported = {m.split(".")[0] for m in imported_modules(file)}
        assert not imported & {"pickle", "cloudpickle", "joblib", "dill"}, file
        assert not re.search(r"(?<!safetensors\.)torch\.(save|load)\(", file.read_text()), file
