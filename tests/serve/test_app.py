"""The deployments fit together, without a cluster: Serve runs them inside this process."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from ray import serve as ray_serve

from serve.app import Scaling, ServeArgs, build_app


@pytest.mark.filterwarnings("ignore")  # Serve's local mode leaves event loops behind
@pytest.mark.parametrize("inputs_scaling", [Scaling(target_ongoing_requests=4.0), None])
def test_a_question_passes_all_deployments_and_is_counted_once_for_all(
    inputs_scaling: Scaling | None,
    bundle_url: str,
    tiny_root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedkim_ray.telemetry._ray_is_up", lambda: False)
    args = ServeArgs(
        bundle=bundle_url,
        no_auth=True,
        samples=tiny_root,
        inputs_scaling=inputs_scaling,
        rate_limit="2/minute",
        audit_log=str(tmp_path),
    )
    handle = ray_serve.run(build_app(args), name="local", _local_testing_mode=True)
    app = handle.options(method_name="__serve_build_asgi_app__").remote().result()
    with TestClient(app, base_url="http://localhost") as web:
        found = web.get("/v1/samples/ecg_abnormal-0").json()["input"]
        asked = [
            web.post("/v1/tasks/ecg_abnormal/predict", json={"inputs": [found]}) for _ in range(3)
        ]
        assert [answer.status_code for answer in asked] == [200, 200, 429]
        assert asked[0].json()["bundle_version"] == web.get("/readyz").json()["bundle_version"]
        stranger = web.get("/v1/tasks", headers={"host": "evil.example"})
        assert stranger.status_code == 400
    assert len(list(tmp_path.glob("audit-*.jsonl"))) == 1


def test_every_deployment_asks_for_the_labels_of_its_nodes() -> None:
    labels = {"role": "serving"}
    app = build_app(
        ServeArgs(bundle="b", no_auth=True, rate_limit="2/minute", replica_selector=labels)
    )
    api = app._bound_deployment
    beneath = [
        each._bound_deployment for each in api.init_args if hasattr(each, "_bound_deployment")
    ]
    asked = {each.name: each.ray_actor_options["label_selector"] for each in (api, *beneath)}
    assert asked == dict.fromkeys(("Api", "Inputs", "Engine", "Quota"), labels)


def test_decoders_need_no_deployment_of_their_own() -> None:
    api = build_app(ServeArgs(bundle="b", no_auth=True, inputs_scaling=None))._bound_deployment
    inputs, engine, *_ = api.init_args
    assert inputs is None
    assert engine._bound_deployment.name == "Engine"


@pytest.mark.parametrize("limit", ["often", "60/minute;1000/day"])
def test_a_rate_limit_is_one(limit: str) -> None:
    with pytest.raises(ValidationError, match="rate_limit"):
        ServeArgs(bundle="b", no_auth=True, rate_limit=limit)


@pytest.mark.parametrize("value", ["", "-x y", "in()", "!!a"])
def test_a_label_that_ray_would_refuse_is_refused_at_once(value: str) -> None:
    with pytest.raises(ValidationError, match="replica_selector"):
        ServeArgs(bundle="b", no_auth=True, replica_selector={"role": value})
