"""The examples of docs/api.md run as they stand, and there is one for each endpoint."""

import base64
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def files(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page speaks of, entered."""
    xray = httpx.get(f"{server_url}/v1/samples/lung_opacity-0").json()["input"]["image"]
    (tmp_path / "chest.png").write_bytes(base64.b64decode(xray.partition(",")[2]))
    ecg = httpx.get(f"{server_url}/v1/samples/ecg_abnormal-0").json()["input"]["ecg"]
    np.save(tmp_path / "ecg.npy", np.array(ecg["data"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_endpoint_has_an_example(app: FastAPI) -> None:
    for path in app.openapi()["paths"]:
        pattern = re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(path))
        for language in ("bash", "python"):
            if (path, language) in {("/v1/models", "python"), ("/v1/chat/completions", "python")}:
                continue  # through the openai package
            assert re.search(pattern, "".join(blocks(language))), f"{path} in {language}"


def test_the_curl_examples_run(server_url: str, files: Path) -> None:
    for block in blocks("bash"):
        script = block.replace(ADDRESS, server_url).replace("curl -s", "curl -sf --noproxy '*'")
        done = subprocess.run(
            ["bash", "-ec", script], capture_output=True, text=True, cwd=files, timeout=60
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def test_the_python_examples_run(
    server_url: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    script = "\n".join(blocks("python")).replace(ADDRESS, server_url)
    script = script.replace('open("chest.png", "rb").read()', 'Path("chest.png").read_bytes()')
    names: dict[str, Any] = {"Path": Path}
    exec(compile(script, "docs/api.md", "exec"), names)
    for name in ("api", "client", "stream"):
        names[name].close()
    assert "lung_opacity" in capsys.readouterr().out
