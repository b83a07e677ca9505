"""From a chat to one patient's inputs."""

from serve.chat import read_chat
from serve.limits import Limits
from serve.schemas import ChatRequest


def test_each_of_several_series_knows_its_own_part() -> None:
    parts = [
        {"type": "input_series", "input_series": {"lab": {"sodium": [140.0]}}},
        {"type": "input_series", "input_series": {"vital": {"pulse": [80.0]}}},
        {"type": "text", "text": "Will the patient die?"},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    raw = read_chat(ChatRequest.model_validate(body), Limits())
    assert raw.path_of_modality("lab") == "messages[0].content[0].input_series.lab"
    assert raw.path_of_modality("vital") == "messages[0].content[1].input_series.vital"
    assert raw.path_of_modality("image") == "image"
