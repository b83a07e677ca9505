"""The official ``openai`` package works against a real HTTP server, unchanged."""

from typing import Any

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def official(server_url: str) -> openai.OpenAI:
    """A client as a user makes it."""
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def image(server_url: str) -> str:
    """A test image as a data: URL."""
    found = httpx.get(f"{server_url}/v1/samples/slake_vqa-0").json()
    return str(found["input"]["image"])


def chat(image: str, text: str) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def test_models(official: openai.OpenAI) -> None:
    assert [model.id for model in official.models.list()] == ["tiny"]
    assert official.models.retrieve("tiny").owned_by == "fedkim-ray"


def test_a_completion_carries_fedkims_facts(official: openai.OpenAI, image: str) -> None:
    answer = official.chat.completions.create(
        model="tiny",
        messages=chat(image, "Does this chest X-ray show lung opacity?"),  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.content in {"Yes", "No"}
    assert answer.fedkim["task"] == "lung_opacity"  # type: ignore[attr-defined]


def test_nulls_are_the_defaults(official: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 4}
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "seed", "stop", "max_tokens"))
    nulls |= dict.fromkeys(("tools", "response_format", "logprobs", "metadata"))  # not ours
    plain = official.chat.completions.create(**asked)  # type: ignore[call-overload]
    same = official.chat.completions.create(**(nulls | asked))  # type: ignore[call-overload]
    assert same.choices[0].message.content == plain.choices[0].message.content


def test_own_parts_and_fields_pass_through(official: openai.OpenAI, server_url: str) -> None:
    ecg = httpx.get(f"{server_url}/v1/samples/ecg_abnormal-0").json()["input"]["ecg"]
    answer = official.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "input_ecg", "input_ecg": ecg}]}],  # type: ignore[misc, list-item]
        extra_body={"task": "ectopic_beats"},
    )
    assert answer.fedkim["task"] == "ectopic_beats"  # type: ignore[attr-defined]


def test_a_stream_equals_the_whole(official: openai.OpenAI, image: str) -> None:
    asked = {"model": "tiny", "messages": chat(image, "Which organ?"), "max_tokens": 10}
    whole = official.chat.completions.create(**asked)  # type: ignore[call-overload]
    stream = official.chat.completions.create(  # type: ignore[call-overload]
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    words = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert words == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("as_dict", [False, True])
def test_an_answer_is_sent_back_in_the_next_turn(official: openai.OpenAI, as_dict: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is a normal heart rate?"}]
    first = official.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    said = first.choices[0].message
    messages.append(said.model_dump() if as_dict else said)
    messages.append({"role": "user", "content": "And of a child?"})
    second = official.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    # The second turn reads the first, and more.
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + 4  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["parse", "stream"])
def test_a_message_of_the_packages_helpers_is_sent_back_too(
    official: openai.OpenAI, image: str, way: str
) -> None:
    asked: Any = {"model": "tiny", "messages": chat(image, "Is there lung opacity?")}
    if way == "parse":
        said = official.chat.completions.parse(**asked).choices[0].message
    else:
        with official.chat.completions.stream(**asked) as stream:
            said = stream.get_final_completion().choices[0].message
    asked["messages"] += [said.model_dump(), {"role": "user", "content": "And edema?"}]
    assert asked["messages"][1]["parsed"] is None
    assert official.chat.completions.create(**asked, max_tokens=4).choices[0].message.content


def test_errors_are_the_packages_own(official: openai.OpenAI, image: str) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-4'"):
        official.chat.completions.create(model="gpt-4", messages=chat(image, "?"))  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="fetches nothing from") as caught:
        official.chat.completions.create(
            model="tiny",
            messages=chat("https://example.org/x.png", "?"),  # type: ignore[arg-type]
        )
    assert caught.value.param == "messages[0].content[0].image_url.url"
