"""Images from elsewhere: whom the server asks, and how much it takes, of a real https server."""

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.tasks import task_table
from serve.errors import FieldError
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import LocalPreparer
from serve.remote_images import RemoteImages, is_public

TASKS = task_table()
CONTENT = b"\x89PNG and other bytes"
PUBLIC, LOOPBACK = "8.8.8.8", "127.0.0.1"


class Host(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        """Give the image, another status, what was asked for, no end, or nothing in time."""
        if self.path == "/late.png":
            time.sleep(1)
        status = 302 if self.path == "/moved.png" else 200
        with contextlib.suppress(OSError):  # the server under test leaves when it has enough
            self.send_response(status)
            self.send_header("Location", "/chest.png")
            self.end_headers()
            asked = self.requestline.split()[1]  # self.path would lose a second slash
            self.wfile.write(asked.encode() if "echo" in asked else CONTENT)
            while self.path == "/endless.png":
                self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the host."""
    return trustme.CA()


@pytest.fixture(scope="module")
def port(authority: trustme.CA) -> Iterator[int]:
    """The port of an https server on the loopback address, whose name is localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


def remote(authority: trustme.CA, *hosts: str, seconds: float = 10.0) -> RemoteImages:
    """A fetcher of images of at most 1000 bytes each."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    limits = Limits(image_hosts=hosts, image_bytes=1000, image_fetch_s=seconds)
    return RemoteImages(limits, tls)


def inputs(*urls: str) -> list[RawInput]:
    """Patients with an image each."""
    return [RawInput(image=u, paths={"image": f"inputs[{i}].image"}) for i, u in enumerate(urls)]


def fetch(authority: trustme.CA, url: str, *hosts: str, seconds: float = 10.0) -> str | None:
    """Return what stands in the request once the image is there."""
    fetcher = remote(authority, *hosts, seconds=seconds)
    return asyncio.run(fetcher.inline(inputs(url)))[0].image


def inside(content: bytes) -> str:
    """An image as it stands in a request."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host of these tests count as one of the internet's."""
    monkeypatch.setattr("serve.remote_images.is_public", lambda _address: True)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that sockets are connected to; the test's server answers for each of them."""
    addresses: list[str] = []
    connect = BaseSelectorEventLoop.sock_connect

    async def record(
        loop: BaseSelectorEventLoop, sock: socket.socket, address: tuple[str, int]
    ) -> None:
        addresses.append(address[0])
        await connect(loop, sock, (LOOPBACK, address[1]))

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", record)
    return addresses


def answer_names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Let each resolution of a name give the next answer."""
    left = iter(answers)

    def getaddrinfo(_host: str, port: int, *_more: object, **_named: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(left)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("loopback_is_public")
def test_an_image_of_an_allowed_host_stands_in_the_request(
    authority: trustme.CA, port: int
) -> None:
    url = fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")
    assert url == inside(CONTENT)


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ("/echo;frame=2?size=full;depth=8#top", "/echo;frame=2?size=full;depth=8"),
        ("/a;b/echo%20%C3%B6", "/a;b/echo%20%C3%B6"),
        ("//echo", "//echo"),
        ("?echo", "/?echo"),
    ],
)
def test_the_very_resource_that_is_named_is_asked_for(
    authority: trustme.CA, port: int, named: str, asked: str
) -> None:
    came = fetch(authority, f"https://localhost:{port}{named}", f"localhost:{port}")
    assert came == inside(asked.encode())


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("moved.png", "status 302, and redirects are not followed"),
        ("endless.png", "more than 1000 bytes"),
        ("late.png", "not within 0.5 s"),
    ],
)
def test_nothing_else_is_taken(authority: trustme.CA, port: int, path: str, problem: str) -> None:
    url, seconds = f"https://localhost:{port}/{path}", 0.5 if path == "late.png" else 10.0
    with pytest.raises(FieldError, match=problem) as caught:
        fetch(authority, url, f"localhost:{port}", seconds=seconds)
    assert caught.value.field == "inputs[0].image"
    assert path not in str(caught.value)


@pytest.mark.usefixtures("loopback_is_public")
def test_a_connection_is_closed_whose_handshake_does_not_come(authority: trustme.CA) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        host = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(FieldError, match=r"not within 0\.2 s") as caught:
            fetch(authority, f"https://{host}/chest.png", host, seconds=0.2)
        with silent.accept()[0] as asked:
            asked.settimeout(5)
            while asked.recv(4096):  # the opening of a handshake, then the end
                pass
    assert caught.value.field == "inputs[0].image"


@pytest.mark.usefixtures("loopback_is_public")
def test_a_host_without_a_trusted_certificate_is_not_asked(port: int) -> None:
    with pytest.raises(FieldError, match="ConnectError"):
        fetch(trustme.CA(), f"https://localhost:{port}/chest.png", f"localhost:{port}")


def test_an_allowed_name_of_a_private_address_is_not_asked(
    authority: trustme.CA, port: int
) -> None:
    with pytest.raises(FieldError, match="an address that is not public"):
        fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")


def test_the_address_that_was_checked_is_connected_to_whatever_the_name_says_next(
    authority: trustme.CA, port: int, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_names(monkeypatch, [PUBLIC, "1.1.1.1"], [LOOPBACK], [LOOPBACK])
    url = fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")
    assert connected == [PUBLIC]
    assert url == inside(CONTENT)


def test_a_name_that_also_has_a_private_address_is_not_connected_to(
    authority: trustme.CA, port: int, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_names(monkeypatch, [PUBLIC, LOOPBACK])
    with pytest.raises(FieldError, match="an address that is not public"):
        fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")
    assert connected == []


def test_a_slow_name_holds_up_no_decoding(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def getaddrinfo(*_asked: object) -> None:
        asked.set()
        answered.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def decode_meanwhile() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        fetched = asyncio.create_task(
            remote(authority, "slow.example").inline(inputs("https://slow.example/x.png"))
        )
        while not asked.is_set():
            await asyncio.sleep(0.001)
        await asyncio.wait_for(asyncio.to_thread(answered.set), 5)
        await fetched

    with pytest.raises(FieldError, match="cannot be fetched: gaierror"):
        asyncio.run(decode_meanwhile())


@pytest.mark.usefixtures("loopback_is_public")
def test_nobody_is_asked_where_one_address_of_the_request_is_refused(
    authority: trustme.CA, port: int, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = remote(authority, f"localhost:{port}")
    looked_up: list[object] = []
    monkeypatch.setattr(fetcher.names, "submit", lambda *asked: looked_up.append(asked))
    urls = (f"https://localhost:{port}/chest.png", "https://other.example/chest.png")
    with pytest.raises(FieldError, match="fetches nothing from") as caught:
        asyncio.run(fetcher.inline(inputs(*urls)))
    assert caught.value.field == "inputs[1].image"
    assert looked_up == connected == []


def test_nobody_is_asked_for_an_image_that_the_task_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def spec() -> DataSpec:
        return SPEC

    preparer = LocalPreparer(spec, Limits(image_hosts=("images.example",)))
    looked_up: list[object] = []
    monkeypatch.setattr(preparer.remote.names, "submit", lambda *asked: looked_up.append(asked))
    raws = inputs("https://images.example/chest.png")
    with pytest.raises(FieldError, match="'ecg_abnormal' of this bundle reads signal") as caught:
        asyncio.run(preparer.prepare(raws, TASKS["ecg_abnormal"]))
    assert caught.value.field == "inputs[0].image"
    assert looked_up == []


@pytest.mark.usefixtures("loopback_is_public")
def test_the_images_of_a_request_have_one_budget(authority: trustme.CA, port: int) -> None:
    fetcher = remote(authority, f"localhost:{port}")
    fetcher.limits = fetcher.limits.model_copy(update={"body_bytes": 2 * len(CONTENT)})
    url = f"https://localhost:{port}/chest.png"
    came = asyncio.run(fetcher.inline(inputs(url, inside(b"own"), url)))
    assert [raw.image for raw in came] == [inside(CONTENT), inside(b"own"), inside(CONTENT)]
    with pytest.raises(FieldError, match="images are more than 40 bytes together"):
        asyncio.run(fetcher.inline(inputs(url, url, url)))


@pytest.mark.usefixtures("loopback_is_public")
def test_with_the_first_image_that_fails_the_others_are_given_up(
    authority: trustme.CA, port: int
) -> None:
    fetcher = remote(authority, f"localhost:{port}")
    urls = (f"https://localhost:{port}/{name}.png" for name in ("late", "moved", "late"))

    async def left_at_work() -> set[asyncio.Task[object]]:
        with pytest.raises(FieldError, match="status 302") as caught:
            await fetcher.inline(inputs(*urls))
        assert caught.value.field == "inputs[1].image"
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(left_at_work()) == set()


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/x.png",
        "http://images.example/x.png",
        "https://images.example:8443/x.png",
        "https://images.example@other.example/x.png",
        "https://user:secret@images.example/x.png",
        "https://images.example.other.example/x.png",
        "https://images.example:port/x.png",
        "https:///x.png",
        "https://images.example/röntgen.png",
        "https://image\u017f.example/x.png",
        "https://images.example/a b.png",
        "https://images.example/a\r\nX-Header:b",
        "https://images.example/a\tb.png",
        "https://images.example/\x7f.png",
        f"https://images.example/{'a' * 8192}",
        "HTTP://169.254.169.254/latest/meta-data",
    ],
)
def test_other_addresses_are_refused_unasked(authority: trustme.CA, url: str) -> None:
    with pytest.raises(FieldError, match=r"over https from images\.example\.") as caught:
        fetch(authority, url, "images.example")
    assert caught.value.field == "inputs[0].image"
    assert "secret" not in str(caught.value)
    with pytest.raises(FieldError, match="sent inside the request"):
        fetch(authority, url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("224.0.0.1", False),
        ("2606:4700::1111", True),
        *((private, False) for private in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1")),
        *((special, False) for special in ("169.254.169.254", "100.64.0.1", "0.0.0.0")),
        *((cloud, False) for cloud in ("168.63.129.16", "192.0.0.192", "192.0.0.9")),
        *((unused, False) for unused in ("192.88.99.1", "3fff::1", "2001:db8::1")),
        *((other, False) for other in ("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1")),
        *((hidden, False) for hidden in ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
