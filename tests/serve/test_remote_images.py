"""Images from elsewhere: whom the server asks, and how much it takes, of a real https server."""

import asyncio
import base64
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from serve.errors import FieldError
from serve.inputs import RawInput
from serve.limits import Limits
from serve.remote_images import RemoteImages, is_public

CONTENT = b"\x89PNG and some bytes"


class Host(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        """Give the image, another status, too much, or nothing in time."""
        if self.path == "/late.png":
            time.sleep(1)
        status = 302 if self.path == "/moved.png" else 200
        self.send_response(status)
        self.send_header("Location", "/chest.png")
        self.end_headers()
        self.wfile.write(CONTENT * (1000 if self.path == "/large.png" else 1))

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


def fetch(authority: trustme.CA, url: str, *hosts: str) -> str | None:
    """Return what stands in the request once the image is there."""
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    limits = Limits(image_hosts=hosts, image_bytes=1000, image_fetch_s=0.5)
    raw = RawInput(image=url, paths={"image": "inputs[0].image"})
    return asyncio.run(RemoteImages(limits, tls).inline([raw]))[0].image


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host of these tests count as one of the internet's."""
    monkeypatch.setattr("serve.remote_images.is_public", lambda _address: True)


@pytest.mark.usefixtures("loopback_is_public")
def test_an_image_of_an_allowed_host_stands_in_the_request(
    authority: trustme.CA, port: int
) -> None:
    url = fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")
    assert url == f"data:image/png;base64,{base64.b64encode(CONTENT).decode()}"


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("moved.png", "status 302, and redirects are not followed"),
        ("large.png", "more than 1000 bytes"),
        ("late.png", "not within 0.5 s"),
    ],
)
def test_nothing_else_is_taken(authority: trustme.CA, port: int, path: str, problem: str) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        fetch(authority, f"https://localhost:{port}/{path}", f"localhost:{port}")
    assert caught.value.field == "inputs[0].image"
    assert path not in str(caught.value)


@pytest.mark.usefixtures("loopback_is_public")
def test_a_host_without_a_trusted_certificate_is_not_asked(port: int) -> None:
    with pytest.raises(FieldError, match="ConnectError"):
        fetch(trustme.CA(), f"https://localhost:{port}/chest.png", f"localhost:{port}")


def test_an_allowed_name_of_a_private_address_is_not_asked(
    authority: trustme.CA, port: int
) -> None:
    with pytest.raises(FieldError, match="an address that is not public"):
        fetch(authority, f"https://localhost:{port}/chest.png", f"localhost:{port}")


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
        "HTTP://169.254.169.254/latest/meta-data",
    ],
)
def test_other_addresses_are_refused_unasked(authority: trustme.CA, url: str) -> None:
    with pytest.raises(FieldError, match=r"over https from images\.example\.") as caught:
        fetch(authority, url, "images.example")
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
        *((other, False) for other in ("::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1")),
        *((hidden, False) for hidden in ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
