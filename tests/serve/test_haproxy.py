"""The shortest way in: HAProxy, which Ray's environment names, and decoding in the HTTP app."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import IO

import httpx
import psutil
import pytest

pytestmark = pytest.mark.ray
OWN_PAGES = {"RAY_SERVE_HAPROXY_METRICS_PORT": "9191", "RAY_SERVE_HAPROXY_STATS_PORT": "9192"}
"""HAProxy's own, which it opens on every address whatever the service's is, as documents say."""
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", **OWN_PAGES}
READY_S = 240.0


@pytest.fixture(scope="module")
def url(bundle_url: str, tiny_root: str) -> Iterator[str]:
    """Where `fedkim serve` answers, in a process of its own: Ray's have its environment."""
    command = [str(Path(sys.executable).parent / "fedkim"), "serve", bundle_url, "--port", "0"]
    command += ["--no-auth", "--samples", tiny_root, "--decode-in-api"]
    env = {**os.environ, **HAPROXY, "COLUMNS": "200"}
    env.pop("RAY_ADDRESS", None)
    pipe, lines = subprocess.PIPE, Queue[str]()
    with subprocess.Popen(
        command, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as ran:
        threading.Thread(target=hand_over, args=(ran.stdout, lines), daemon=True).start()
        try:
            yield first_url(lines)
        finally:
            ran.send_signal(signal.SIGINT)
            ran.wait(60)


def hand_over(out: IO[str], lines: Queue[str]) -> None:
    """Read lines as they come, so that the command's pipe never fills."""
    for line in out:
        lines.put(line)


def first_url(lines: Queue[str]) -> str:
    """Return the address that the command prints once the service answers."""
    while True:
        if found := re.search(r"http://127\.0\.0\.1:\d+", lines.get(timeout=READY_S)):
            return found[0]


def test_questions_streams_and_refusals_pass_haproxy(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as web:
        found = web.get("/v1/samples/lung_opacity-0").json()["input"]
        asked = web.post("/v1/tasks/lung_opacity/predict", json={"inputs": [found]})
        assert asked.json()["bundle_version"] == web.get("/readyz").json()["bundle_version"]
        image = {"type": "image_url", "image_url": {"url": found["image"]}}
        said = [{"role": "user", "content": [image, {"type": "text", "text": "Why?"}]}]
        body = {"model": "tiny", "messages": said, "stream": True, "max_tokens": 4}
        with web.stream("POST", "/v1/chat/completions", json=body) as stream:
            events = [line for line in stream.iter_lines() if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"
        too_long = web.post("/v1/tasks/lung_opacity/predict", content=b"x" * (40 << 20))
        assert too_long.status_code == 413
        assert too_long.json()["error"]["type"]
        assert web.get("/v1/tasks", headers={"Host": "elsewhere.example"}).status_code == 400


def test_the_service_stays_on_loopback_and_haproxy_opens_its_own_pages_alone(url: str) -> None:
    own = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "haproxy"]
    connections = [c for process in own for c in process.net_connections("tcp")]
    listening = {(c.laddr.ip, c.laddr.port) for c in connections if c.status == "LISTEN"}
    assert ("127.0.0.1", httpx.URL(url).port) in listening
    assert {port for ip, port in listening if ip != "127.0.0.1"} == {*map(int, OWN_PAGES.values())}
