"""The KubeRay manifests: whole by schema, locked down by Pod Security, closed by NetworkPolicy."""

import json
import re
import shlex
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private import ray_constants
from ray.serve.schema import ServeDeploySchema

from fedkim_ray.config import Recipe
from fedkim_ray.federation.resources import fits
from fedkim_ray.recipe_files import parse_recipe
from serve.app import ServeArgs
from tests.cluster.manifests import (
    KUBERAY,
    OVERLAYS,
    of_kind,
    pods,
    ray_specs,
    ray_validator,
    render,
)

RAY_KINDS = ("RayCluster", "RayJob", "RayService")
OPERATORS_KINDS = ("PodMonitor",)
"""Of the Prometheus operator, whose schemas are not at hand: held against the pods instead."""
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def recipe_of(overlay: str) -> Recipe:
    [config] = of_kind(overlay, "ConfigMap")
    return parse_recipe(yaml.safe_load(config["data"]["recipe.yaml"]), "recipe.yaml")


def has_gpus(overlay: str) -> bool:
    return not overlay.startswith("dev")


@every_overlay
def test_rays_kinds_fit_kuberays_definitions(overlay: str) -> None:
    for manifest in render(overlay):
        if manifest["kind"] in RAY_KINDS:
            ray_validator(manifest["kind"]).validate(manifest)


def test_the_definitions_are_held_strictly() -> None:
    [cluster] = of_kind("dev", "RayCluster")
    wrong = json.loads(json.dumps(cluster))
    wrong["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        ray_validator("RayCluster").validate(wrong)


@every_overlay
def test_kubernetes_own_kinds_fit_its_schema(overlay: str) -> None:
    core = [m for m in render(overlay) if m["kind"] not in RAY_KINDS + OPERATORS_KINDS]
    for manifest in core:
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    kinds = {manifest["kind"] for manifest in core}
    assert {"Namespace", "NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim"} <= kinds


@every_overlay
def test_secrets_are_named_and_never_held(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for spec in ray_specs(overlay).values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "fedkim-ray-token"}


@every_overlay
def test_no_pod_is_root_or_writes_its_image(overlay: str) -> None:
    for name, template in pods(overlay):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"], name
            assert locked["allowPrivilegeEscalation"] is False, name
            assert locked["capabilities"] == {"drop": ["ALL"]}, name
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"], name
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/fedkim"} <= mounts, name  # what a process must write


@every_overlay
def test_a_site_mounts_its_own_private_data_and_no_other(overlay: str) -> None:
    seen = {}
    for name, template in pods(overlay):
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in template["spec"].get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        private = {claim for claim in claims if claim.startswith("fedkim-site")}
        site = template["metadata"]["labels"].get("fedkim-site")
        assert private == ({f"fedkim-{site}"} if site else set()), name
        if site:
            seen[site] = claims
            assert "fedkim-runs" not in claims
    assert set(seen) == {"site-a", "site-b"}


@every_overlay
def test_each_client_is_pinned_to_its_sites_pods(overlay: str) -> None:
    recipe = recipe_of(overlay)
    specs = ray_specs(overlay)
    groups = (specs.get("RayCluster") or specs["RayJob"])["workerGroupSpecs"]
    offered = {
        group["groupName"]: json.loads(json.loads(group["rayStartParams"]["resources"]))
        for group in groups
        if "resources" in group["rayStartParams"]
    }
    assert recipe.federation.client_resources == offered
    [injection] = [group for group in groups if group["groupName"] == "injection"]
    wanted = recipe.injection.worker_selector
    assert [g["groupName"] for g in groups if fits(wanted, g["labels"])] == ["injection"]
    assert injection["maxReplicas"] >= (recipe.injection.num_workers if has_gpus(overlay) else 1)
    limits = injection["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == recipe.injection.use_gpu


def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a pod selector takes these labels; the forms that the manifests use."""
    plain = selector.get("matchLabels", {})
    fits = all(labels.get(key) == value for key, value in plain.items())
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        fits = fits and (value in rule["values"] if rule["operator"] == "In" else value is not None)
    return fits


def reachable(overlay: str, role: str) -> set[str]:
    """Return the roles, and ``dns`` or ``anywhere``, that pods of a role may open a line to."""
    found: set[str] = set()
    for policy in of_kind(overlay, "NetworkPolicy"):
        if not selected(policy["spec"]["podSelector"], {"fedkim-role": role}):
            continue
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", [{}]):
                selector = peer.get("podSelector", {})
                labels = selector.get("matchLabels", {})
                roles = [labels[key] for key in ("fedkim-role", "app", "k8s-app") if key in labels]
                for expression in selector.get("matchExpressions", []):
                    roles += expression["values"]
                found.update(roles or ["anywhere"])
    return found


@every_overlay
def test_a_site_reaches_the_head_and_names_and_nothing_else(overlay: str) -> None:
    assert reachable(overlay, "site") == {"head", "kube-dns"}
    assert reachable(overlay, "injection") == {"head", "injection", "kube-dns"}
    assert "site" not in reachable(overlay, "engine")
    denied = [p for p in of_kind(overlay, "NetworkPolicy") if p["spec"]["podSelector"] == {}]
    assert any(
        p["spec"]["policyTypes"] == ["Ingress", "Egress"] and len(p["spec"]) == 2 for p in denied
    )


def budgets(overlay: str) -> dict[str, Any]:
    """Return the spec of each disruption budget by the role of its pods."""
    specs = [manifest["spec"] for manifest in of_kind(overlay, "PodDisruptionBudget")]
    return {spec["selector"]["matchLabels"]["fedkim-role"]: spec for spec in specs}


# Ray's kinds have no `scale`: of them Kubernetes counts pods for a whole minAvailable alone.
@every_overlay
def test_a_budget_of_rays_pods_is_a_number_of_pods(overlay: str) -> None:
    roles = {template["metadata"]["labels"]["fedkim-role"] for _, template in pods(overlay)}
    assert budgets(overlay).keys() == {"head", "site", "engine"}
    assert budgets(overlay).keys() <= roles
    for role, spec in budgets(overlay).items():
        assert "maxUnavailable" not in spec, role
        assert isinstance(spec["minAvailable"], int), role


@every_overlay
def test_one_site_may_be_drained_at_a_time_and_never_the_head(overlay: str) -> None:
    specs = ray_specs(overlay)
    groups = (specs.get("RayCluster") or specs["RayJob"])["workerGroupSpecs"]
    roles = [group["template"]["metadata"]["labels"]["fedkim-role"] for group in groups]
    assert budgets(overlay)["site"]["minAvailable"] == roles.count("site") - 1
    assert budgets(overlay)["head"]["minAvailable"] == 1


@pytest.mark.parametrize("overlay", ["gpu", "gpu-job", "production"])
def test_the_endpoints_head_may_reach_its_redis_and_redis_lets_it_in(overlay: str) -> None:
    kept = ray_specs(overlay)["RayService"]["gcsFaultToleranceOptions"]
    host, _, port = kept["redisAddress"].partition(":")
    rules = [
        rule
        for policy in of_kind(overlay, "NetworkPolicy")
        if selected(policy["spec"]["podSelector"], {"app": host})
        for rule in policy["spec"].get("ingress", [])
    ]
    [rule] = rules
    head = {"fedkim-role": "serve-head"}
    assert any(selected(peer["podSelector"], head) for peer in rule["from"])
    assert [opened["port"] for opened in rule["ports"]] == [int(port)]
    assert host in reachable(overlay, "serve-head")


@pytest.mark.parametrize("overlay", ["dev", "dev-job"])
def test_one_machine_needs_no_redis_and_no_shared_storage(overlay: str) -> None:
    assert "gcsFaultToleranceOptions" not in ray_specs(overlay)["RayService"]
    claims = of_kind(overlay, "PersistentVolumeClaim")
    assert [claim["spec"]["accessModes"] for claim in claims] == 4 * [["ReadWriteOnce"]]


def requested(overlay: str) -> tuple[float, float]:
    """Return the CPUs and the GiB that all pods of an overlay request."""
    containers: list[Any] = []
    for spec in ray_specs(overlay).values():
        containers += [spec["autoscalerOptions"]]
        containers += spec["headGroupSpec"]["template"]["spec"]["containers"]
        for group in spec["workerGroupSpecs"]:
            containers += group["replicas"] * group["template"]["spec"]["containers"]
    for job in of_kind(overlay, "RayJob"):
        containers += job["spec"]["submitterPodTemplate"]["spec"]["containers"]
    each = [container["resources"]["requests"] for container in containers]
    cpus = [float(r["cpu"].rstrip("m")) / (1000 if r["cpu"].endswith("m") else 1) for r in each]
    gib = [float(r["memory"][:-2]) / {"Mi": 1024, "Gi": 1}[r["memory"][-2:]] for r in each]
    return sum(cpus), sum(gib)


def test_the_readme_says_what_one_machine_must_have() -> None:
    text = " ".join((KUBERAY / "README.md").read_text().split())
    one, other = r"(\S+) CPUs and (\S+) GiB", r"`dev-job` (\S+) CPUs and (\S+) GiB"
    said = re.search(rf"`dev` requests {one} of memory, {other}", text)
    assert said
    dev, dev_job = requested("dev"), requested("dev-job")
    assert [float(number) for number in said.groups()] == pytest.approx([*dev, *dev_job])


def test_the_pod_that_fills_the_volumes_of_one_machine_is_locked_down() -> None:
    pod = yaml.safe_load((KUBERAY / "overlays/dev/fill.yaml").read_text())
    kubernetes_validate.validate(pod, "1.31", strict=True)
    claims = {claim["metadata"]["name"] for claim in of_kind("dev", "PersistentVolumeClaim")}
    filled = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]}
    assert filled == claims - {"fedkim-runs"}
    [(_, site), *_] = [pair for pair in pods("dev") if pair[0].endswith("site-a")]
    assert pod["spec"]["securityContext"] == site["spec"]["securityContext"]
    [container], [reader] = pod["spec"]["containers"], site["spec"]["containers"]
    assert container["securityContext"] == reader["securityContext"]


@every_overlay
def test_the_endpoints_configuration_is_one_that_serve_takes(overlay: str) -> None:
    [service] = of_kind(overlay, "RayService")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    [application] = config.applications
    assert application.import_path == "serve.app:build_app"
    args = ServeArgs.model_validate(application.args)
    assert args.api_keys_file
    assert bool(args.engine_gpus) == has_gpus(overlay)


@every_overlay
def test_an_engines_pod_ends_after_the_answers_under_way(overlay: str) -> None:
    [service] = of_kind(overlay, "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    [application] = config["applications"]
    answer_s = ServeArgs.model_validate(application["args"]).limits.request_s
    [engine] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    pod = engine["template"]["spec"]
    env = {variable["name"]: variable["value"] for variable in pod["containers"][0].get("env", [])}
    drain_s = float(env.get(DRAIN, ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S))
    assert hasattr(ray_constants, DRAIN)
    assert answer_s < config["http_options"]["request_timeout_s"] < drain_s
    assert drain_s < pod["terminationGracePeriodSeconds"]


def test_production_has_tls_between_all_of_rays_processes() -> None:
    specs = ray_specs("production")
    assert specs.keys() == {"RayCluster", "RayService"}
    assert [spec["tlsOptions"] for spec in specs.values()] == [{"enabled": True}] * 2


def test_productions_prometheus_may_reach_the_exporter_of_every_pod() -> None:
    [monitor] = of_kind("production", "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    [policy] = [
        p for p in of_kind("production", "NetworkPolicy") if p["metadata"]["name"] == "prometheus"
    ]
    [rule] = policy["spec"]["ingress"]
    opened = {port["port"] for port in rule["ports"]}
    assert monitor["metadata"]["namespace"] == policy["metadata"]["namespace"] == "fedkim"
    for name, template in pods("production"):
        labels = template["metadata"]["labels"]
        assert selected(monitor["spec"]["selector"], labels), name
        assert selected(policy["spec"]["podSelector"], labels), name
        [container] = template["spec"]["containers"]
        scraped = [p["containerPort"] for p in container["ports"] if p["name"] == endpoint["port"]]
        assert set(scraped) == opened, name


@pytest.mark.parametrize("overlay", ["dev-job", "gpu-job"])
def test_a_job_has_its_own_cluster_and_goes_on_where_it_stopped(overlay: str) -> None:
    assert of_kind(overlay, "RayCluster") == []
    [job] = of_kind(overlay, "RayJob")
    assert job["spec"]["backoffLimit"] > 0
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["fedkim", "run"]
    assert "--resume" in words
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert any(
        mount["mountPath"] == "/etc/fedkim" for mount in head["containers"][0]["volumeMounts"]
    )
