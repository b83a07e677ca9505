"""What the service is measured against answers, from PEFT's own layers."""

import base64
import io

from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.serving_peer import peer_app


def test_the_peer_answers_with_no_more_tokens_than_asked_for(bundle_url: str) -> None:
    sink = io.BytesIO()
    Image.linear_gradient("L").save(sink, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
    body = {"inputs": [{"image": image, "question": "What is seen?"}], "max_tokens": 5}
    with TestClient(peer_app(bundle_url, yes_no_tokens=2)) as web:
        for task, most in (("lung_opacity", 2), ("med_vqa", 5)):
            [answer] = web.post(f"/v1/tasks/{task}/predict", json=body).json()["data"]
            assert 1 <= answer["completion_tokens"] <= most
