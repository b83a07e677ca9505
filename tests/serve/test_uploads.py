"""Files in a form are answered like the same files in JSON."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient


def sample(client: TestClient, sample_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/samples/{sample_id}").json()["input"]
    return found


def test_an_image_in_a_form_is_answered_like_one_in_json(client: TestClient) -> None:
    url = "/v1/tasks/slake_vqa/predict"
    patient = sample(client, "slake_vqa-0")
    image = base64.b64decode(patient["image"].partition(",")[2])
    fields = {"question": "Which organ?", "max_tokens": "3"}
    form = client.post(url, files={"image": ("chest.png", image)}, data=fields)
    body = {"inputs": [{"image": patient["image"], "question": "Which organ?"}], "max_tokens": 3}
    assert form.status_code == 200, form.text
    assert form.json() == client.post(url, json=body).json()


def test_a_recording_and_series_in_a_form(client: TestClient) -> None:
    ecg = sample(client, "ecg_abnormal-0")["ecg"]
    sink = io.BytesIO()
    np.save(sink, np.array(ecg["data"]))
    fields = {"leads": "I, II", "sampling_rate_hz": str(ecg["sampling_rate_hz"])}
    url = "/v1/tasks/ecg_abnormal/predict"
    form = client.post(url, files={"ecg": ("r.npy", sink.getvalue())}, data=fields)
    plain = client.post(url, json={"inputs": [{"ecg": ecg}]})
    assert form.status_code == 200, form.text
    assert form.json() == plain.json()
    files = {"series": (None, '{"lab": {"lab_0": [1.0, null, 2.0]}}')}
    series = client.post("/v1/tasks/mortality/predict", files=files)
    assert series.status_code == 200, series.text


@pytest.mark.parametrize(
    ("files", "field", "problem"),
    [
        ({"ecg": ("r.exe", b"x")}, "ecg", "ends in 'exe'"),
        ({"ecg": (None, b"x")}, "ecg", "plain text"),
        ({"patient": ("x.png", b"x")}, "patient", "has a field 'patient'"),
        ({"text": ("note.txt", b"x")}, "text", "is a file"),
        ({"question": ("q.txt", b"x")}, "question", "is a file"),
        ({"series": ("s.json", b"{}")}, "series", "is a file"),
        ({"ecg": ("r.csv", b"I"), "unit": ("u.txt", b"mV")}, "unit", "is a file"),
        ({"ecg": ("r.npy", b"x"), "leads": ("l.txt", b"I")}, "leads", "is a file"),
        ({"series": (None, b"{")}, "series", "no JSON"),
        ({"series": (None, b"[" * 100_000)}, "series", "no JSON"),
        ({"image": ("x.png", b"x")}, "inputs[0].image", "cannot be decoded"),
        ({"sampling_rate_hz": (None, b"NaN"), "ecg": ("r.csv", b"I")}, "inputs[0].ecg", "number"),
    ],
)
def test_a_bad_form_names_its_field(
    client: TestClient, files: dict[str, Any], field: str, problem: str
) -> None:
    answer = client.post("/v1/tasks/covid19/predict", files=files)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert problem in error["message"]
    assert error["param"].startswith(field)


@pytest.mark.parametrize("name", ["image", "question"])
def test_a_second_field_of_a_name_is_refused(client: TestClient, name: str) -> None:
    files = [(name, (None, b"one")), (name, (None, b"two"))]
    answer = client.post("/v1/tasks/covid19/predict", files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert f"has 2 fields '{name}'" in answer.json()["error"]["message"]


def test_a_form_that_asks_nothing_is_not_read(client: TestClient) -> None:
    torn = {"content": b"--y\r\nx", "headers": {"content-type": "multipart/form-data"}}
    assert client.post("/static/predict", **torn).status_code == 405
    assert client.put("/v1/tasks/covid19/predict", **torn).status_code == 405


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-16"])
def test_a_form_in_another_encoding_is_refused_before_it_is_read(
    client: TestClient, charset: str
) -> None:
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = client.post(
        "/v1/tasks/covid19/predict", content=b"--y\r\nx", headers={"content-type": kind}
    )
    assert answer.status_code == 400, answer.text
    assert f"The form is in '{charset}'" in answer.json()["error"]["message"]


def test_a_form_may_say_that_it_is_utf_8(client: TestClient) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="series"\r\n\r\n{}\r\n'
        b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\n\xc3\xa4\r\n--x--\r\n'
    )
    kind = "multipart/form-data; boundary=x; charset=UTF-8"
    answer = client.post("/v1/tasks/covid19/predict", content=body, headers={"content-type": kind})
    assert "has a field 'note'" in answer.json()["error"]["message"]


def test_a_form_that_is_torn_is_refused(client: TestClient) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post(
            "/v1/tasks/covid19/predict", content=b"--y\r\nx", headers={"content-type": kind}
        )
        assert answer.status_code == 400, answer.text
