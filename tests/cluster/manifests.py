"""Rendering of the overlays, and the schemas that they are held against."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster/kuberay"
OVERLAYS = ("dev", "gpu", "production", "dev-job", "gpu-job")
Manifest = dict[str, Any]


@cache
def render(overlay: str) -> list[Manifest]:
    """Return an overlay's resources as ``kubectl kustomize`` gives them; skip without it."""
    folder = str(KUBERAY / "overlays" / overlay)
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", folder]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build", folder]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    """Return an overlay's resources of one kind."""
    return [manifest for manifest in render(overlay) if manifest["kind"] == kind]


def ray_specs(overlay: str) -> dict[str, Manifest]:
    """Return every RayCluster spec of an overlay, by the resource that holds it."""
    inside = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    specs = {}
    for manifest in render(overlay):
        if manifest["kind"] in inside:
            spec = manifest["spec"]
            for key in inside[manifest["kind"]]:
                spec = spec[key]
            specs[manifest["kind"]] = spec
    return specs


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    """Yield the name and template of every kind of pod."""
    for owner, spec in ray_specs(overlay).items():
        yield f"{owner} head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{owner} {group['groupName']}", group["template"]
    for job in of_kind(overlay, "RayJob"):
        yield "submitter", job["spec"]["submitterPodTemplate"]


@cache
def ray_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Return a validator of a KubeRay kind, made strict; skip where the CRDs are absent.

    They are looked for in FEDKIM_KUBERAY_CRDS, and in ``shared/kuberay-crds`` beside the project.
    """
    places = [Path(os.environ.get("FEDKIM_KUBERAY_CRDS", ROOT / "absent"))]
    places += [parent / "shared/kuberay-crds" for parent in ROOT.parents[:2]]
    for place in places:
        file = place / f"ray.io_{kind.lower()}s.yaml"
        if file.is_file():
            versions = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
            [v1] = [version for version in versions if version["name"] == "v1"]
            return jsonschema.Draft202012Validator(_strict(v1["schema"]["openAPIV3Schema"]))
    pytest.skip("KubeRay's CRDs are absent: name their folder in FEDKIM_KUBERAY_CRDS")


def _strict(schema: Any) -> Any:
    """Refuse fields that the API server would drop without a word."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict
