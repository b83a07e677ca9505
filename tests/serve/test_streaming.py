"""Streams over a real connection: a client that goes away stops the work."""

import time

import httpx
import pytest
import torch

from serve.transformers_engine import TransformersEngine

TOKEN_S = 0.01
NUM_TOKENS = 500


def test_a_client_that_goes_away_stops_its_answer(
    server_url: str, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def endless(logits_BV: torch.Tensor, draws: list[object]) -> tuple[torch.Tensor, dict]:
        time.sleep(TOKEN_S)
        made.append(len(draws))
        return torch.full((len(draws),), 300), {}

    monkeypatch.setattr("serve.running_batch.choose_tokens", endless)
    found = httpx.get(f"{server_url}/v1/samples/slake_vqa-0").json()["input"]
    parts = [
        {"type": "image_url", "image_url": {"url": found["image"]}},
        {"type": "text", "text": "Which organ?"},
    ]
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "stream": True}
    body |= {"max_tokens": NUM_TOKENS}
    with httpx.stream("POST", f"{server_url}/v1/chat/completions", json=body) as answer:
        first = next(answer.iter_lines())
    assert first.startswith("data: "), first
    until = time.monotonic() + NUM_TOKENS * TOKEN_S
    while engine._running and time.monotonic() < until:
        time.sleep(TOKEN_S)
    assert 0 < len(made) < NUM_TOKENS / 2
