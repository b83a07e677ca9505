"""Images that a request names by their address: fetched from hosts that the operator allows.

A server that fetches what strangers name can be turned against the network it stands in. So nobody
is asked but hosts of the allow-list (empty by default), over https alone, without redirects; names
are resolved here, and the connection goes to the very address that was checked, so that a name
cannot point elsewhere a moment later. What comes is counted as it comes, each image and all of a
request together, and ends with a deadline.
"""

import asyncio
import base64
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpcore

from serve.errors import FieldError
from serve.inputs import RawInput
from serve.limits import Limits
from serve.together import together

HTTPS_PORT = 443
HEADERS = (
    ("Accept", "image/png, image/jpeg, application/dicom"),
    ("Accept-Encoding", "identity"),
)
"""Nothing compressed comes back that would unpack to a size which nobody counted."""
GLOBAL_UNICAST_V6 = ipaddress.ip_network("2000::/3")
NO_HOST_OF_THE_INTERNET = tuple(
    ipaddress.ip_network(block)
    for block in (
        "168.63.129.16/32",  # the agent of Azure's hosts: a public number, answered from within
        "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata stands here as well
        "192.88.99.0/24",  # 6to4 relays, withdrawn by RFC 7526
        "2002::/16",  # 6to4: may carry a private address of the older kind
        "3fff::/20",  # documentation, RFC 9637
    )
)
"""What Python's ``is_global``, by its version, lets through."""
PRINTABLE_ASCII = re.compile("[!-~]+")
MAX_URL_CHARS = 8192
"""Of an address, which urlsplit keeps beyond its request."""
NAME_THREADS = 4


class NotPublicError(OSError):
    """A name stands for an address that is none of the public internet's."""


def is_remote(url: str) -> bool:
    """Return whether an image stands elsewhere than in the request."""
    return url[:8].lower().startswith(("http://", "https://"))


def is_public(address: str) -> bool:
    """Return whether an address is a single host's on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in block for block in NO_HOST_OF_THE_INTERNET):
        return False
    if ip.version == 6:
        return ip in GLOBAL_UNICAST_V6 and ip.is_global
    return ip.is_global and not ip.is_multicast


class PublicAddresses(httpcore.AnyIOBackend):
    """Opens connections to public addresses alone."""

    def __init__(self, names: Executor) -> None:
        """Keep the threads in which names are resolved."""
        self.names = names
        self.opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve a name, hold every address of it against ``is_public``, connect to the first.

        Raises:
            NotPublicError: one of them is not public.
            OSError: the name has no address.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.names, socket.getaddrinfo, host, port)
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if not all(is_public(address) for address in addresses):
            raise NotPublicError
        stream = await super().connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )
        self.opened.append(stream)
        return stream

    async def aclose(self) -> None:
        """Close what was opened: httpcore itself forgets a handshake that is given up."""
        for stream in self.opened:
            await stream.aclose()


@dataclass(slots=True)
class Taken:
    """What the remote images of one request have brought so far."""

    num_bytes: int = 0


class RemoteImages:
    """Puts images from elsewhere into the request, as though they had been sent in it."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        """Keep whom to ask and how much to take.

        Args:
            limits: ``image_hosts`` are the hosts, the others bound what is fetched; all images of
                a request together have ``body_bytes``, as if they had come in its body.
            tls: Which certificates are trusted; the machine's where None.
        """
        self.limits = limits
        self.tls = tls or ssl.create_default_context()
        # Threads of their own: a name server that is slow holds up no image that is being decoded.
        self.names = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")

    async def inline(self, raws: Sequence[RawInput]) -> list[RawInput]:
        """Return inputs without remote images: each is fetched, all at once.

        No host is asked before every address of the request is known to be allowed, and with the
        first image that fails the others are given up.

        Raises:
            FieldError: one may not be fetched, does not come in time or is too large, or all
                together are.
        """
        urls = [self._url(raw) for raw in raws]
        taken = Taken()
        return await together(
            self._inline(raw, url, taken) for raw, url in zip(raws, urls, strict=True)
        )

    async def _inline(self, raw: RawInput, url: httpcore.URL | None, taken: Taken) -> RawInput:
        if url is None:
            return raw
        path = raw.path_of("image")
        try:
            async with asyncio.timeout(self.limits.image_fetch_s):
                content = await self._fetch(url, path, taken)
        except TimeoutError:
            raise self._failed(path, f"not within {self.limits.image_fetch_s:g} s") from None
        except NotPublicError:
            raise self._failed(path, "its host has an address that is not public") from None
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise self._failed(path, type(error).__name__) from None
        # The reader looks at the bytes themselves, whatever kind is said here.
        return replace(raw, image=f"data:image/png;base64,{base64.b64encode(content).decode()}")

    async def _fetch(self, url: httpcore.URL, path: str, taken: Taken) -> bytes:
        """Return the body of a 200; nothing else is followed or read."""
        content = bytearray()
        async with (
            contextlib.aclosing(PublicAddresses(self.names)) as backend,
            httpcore.AsyncConnectionPool(
                ssl_context=self.tls, network_backend=backend, max_connections=1
            ) as pool,
            pool.stream("GET", url, headers=HEADERS) as answer,
        ):
            if answer.status != 200:
                raise self._failed(path, f"status {answer.status}, and redirects are not followed")
            async for chunk in answer.aiter_stream():
                content += chunk
                taken.num_bytes += len(chunk)
                self._require_within(len(content), taken, path)
        return bytes(content)

    def _require_within(self, num_bytes: int, taken: Taken, path: str) -> None:
        """Raise where an image, or all of its request so far, are too large."""
        if num_bytes > self.limits.image_bytes:
            raise self._failed(path, f"more than {self.limits.image_bytes} bytes")
        if taken.num_bytes > self.limits.body_bytes:
            raise self._failed(
                path, f"the request's images are more than {self.limits.body_bytes} bytes together"
            )

    def _url(self, raw: RawInput) -> httpcore.URL | None:
        """Return where an input's image stands; None where it came in the request, or none did.

        Raises:
            FieldError: this is no https address of a host in the allow-list.
        """
        if raw.image is None or not is_remote(raw.image):
            return None
        path, hosts = raw.path_of("image"), self.limits.image_hosts
        url = _parsed(raw.image)
        if url is None or _host(url) not in {host.lower() for host in hosts}:
            raise FieldError(
                f"{path} is an address that this server fetches nothing from.",
                f"It fetches over https from {', '.join(hosts)}. Characters other than printable "
                f"ASCII stand percent-encoded, {MAX_URL_CHARS} in all at most."
                if hosts
                else "Images are sent inside the request.",
                "Send data:image/png;base64,… or data:image/jpeg;base64,….",
                path,
            )
        return url

    def _failed(self, path: str, why: str) -> FieldError:
        return FieldError(
            f"{path} cannot be fetched: {why}.",
            f"An image comes within {self.limits.image_fetch_s:g} s, in at most "
            f"{self.limits.image_bytes} bytes, from a public address; all of a request in at most "
            f"{self.limits.body_bytes}.",
            "Send the image inside the request.",
            path,
        )


def _parsed(url: str) -> httpcore.URL | None:
    """Return the parts of a plain https address; None of any other.

    Parsed once, here: what is held against the allow-list is what is asked, and httpcore's own
    reading of a text loses what stands behind a semicolon.
    """
    if len(url) > MAX_URL_CHARS:
        return None
    if not PRINTABLE_ASCII.fullmatch(url):  # urlsplit drops line ends and tabs without a word
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or HTTPS_PORT
    except ValueError:
        return None
    if parts.scheme != "https" or "@" in parts.netloc or not parts.hostname:
        return None
    query = f"?{parts.query}" if parts.query else ""
    return httpcore.URL(
        scheme="https", host=parts.hostname, port=port, target=(parts.path or "/") + query
    )


def _host(url: httpcore.URL) -> str:
    """Return ``host``, or ``host:port`` of another port than https has."""
    host = url.host.decode()
    return host if url.port == HTTPS_PORT else f"{host}:{url.port}"
