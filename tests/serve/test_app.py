"""The deployments fit together, without a cluster: Serve runs them inside this process."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from ray import serve as ray_serve

from serve.app import ServeArgs, build_app


@pytest.mark.filterwarnings("ignore")  # Serve's local mode leaves event loops behind
def test_a_question_passes_all_deployments_and_is_counted_once_for_all(
    bundle_url: str, tiny_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkim_ray.telemetry._ray_is_up", lambda: False)
    args = ServeArgs(
        bundle=bundle_url,
        no_auth=True,
        samples=tiny_root,
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
