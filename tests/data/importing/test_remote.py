"""Imports from a web server: whole, and refused in time where it stops answering."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedkim_ray.data.importing import remote
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import
from fedkim_ray.errors import DataError

GIVE_UP_S = 30.0


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, but says nothing when it is asked for ``silent``."""

    silent = ""
    stopped = threading.Event()

    def do_GET(self) -> None:
        """Answer, or wait until the test is over."""
        if self.silent and self.path.endswith(self.silent):
            self.stopped.wait(GIVE_UP_S)
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep still."""


@contextmanager
def web_server(folder: Path, silent_about: str = "") -> Iterator[str]:
    """Serve a folder, and give its URL."""
    facts = {"silent": silent_about, "stopped": threading.Event()}
    kind = type("OneHandler", (Handler,), facts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        facts["stopped"].set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def few_records(tmp_path: Path, write_record: Callable[..., None]) -> Path:
    for number in range(8):
        write_record(tmp_path / "source", str(300 + number), "NV" if number % 2 else "NN")
    return tmp_path / "source"


def request(source: str, root: Path) -> ImportRequest:
    key = root.parent / "key"
    key.write_text("a1" * 32)
    return ImportRequest(importer="mitbih", source=source, root=str(root), key_path=key, workers=1)


def test_a_web_server_gives_what_the_folder_gives(few_records: Path, tmp_path: Path) -> None:
    local = run_import(request(str(few_records), tmp_path / "local"))
    with web_server(few_records) as url:
        distant = run_import(request(url, tmp_path / "distant"))
    assert distant.card.files == local.card.files


@pytest.mark.parametrize("silent", ["305.dat", "305.hea"])
def test_a_server_that_says_nothing_is_given_up(
    few_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.3)
    told = pytest.raises(DataError, match=r"127.0.0.1.* stopped answering \(FSTimeoutError\)")
    with web_server(few_records, silent) as url, told:
        run_import(request(url, tmp_path / "root"))
    with web_server(few_records) as url:
        assert run_import(request(url, tmp_path / "root")).record.num_rows == 32


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with web_server(tmp_path) as url:
        pass
    with pytest.raises(DataError, match="cannot be imported as mitbih: there is no folder"):
        run_import(request(url, tmp_path / "root"))
