"""Images that a request names by their address: fetched from hosts that the operator allows.

A server that fetches what strangers name can be turned against the network it stands in. So nobody
is asked but hosts of the allow-list (empty by default), over https alone, without redirects; names
are resolved here, and the connection goes to the very address that was checked, so that a name
cannot point elsewhere a moment later. What comes is counted byte by byte and ends with a deadline.
"""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpcore

from serve.errors import FieldError
from serve.inputs import RawInput
from serve.limits import Limits

HTTPS_PORT = 443
HEADERS = (
    ("Accept", "image/png, image/jpeg, application/dicom"),
    ("Accept-Encoding", "identity"),
)
"""Nothing compressed comes back that would unpack to a size which nobody counted."""
GLOBAL_UNICAST_V6 = ipaddress.ip_network("2000::/3")
V4_INSIDE_V6 = ipaddress.ip_network("2002::/16")
"""6to4: such an address may carry a private one of the older kind."""


class NotPublicError(OSError):
    """A name stands for an address that is none of the public internet's."""


def is_remote(url: str) -> bool:
    """Return whether an image stands elsewhere than in the request."""
    return url[:8].lower().startswith(("http://", "https://"))


def is_public(address: str) -> bool:
    """Return whether an address is a single host's on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        return ip in GLOBAL_UNICAST_V6 and ip not in V4_INSIDE_V6 and ip.is_global
    return ip.is_global and not ip.is_multicast


class PublicAddresses(httpcore.AnyIOBackend):
    """Opens connections to public addresses alone."""

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
        found = await asyncio.get_running_loop().getaddrinfo(host, port)
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if not all(is_public(address) for address in addresses):
            raise NotPublicError
        return await super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)


class RemoteImages:
    """Puts images from elsewhere into the request, as though they had been sent in it."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        """Keep whom to ask and how much to take.

        Args:
            limits: ``image_hosts`` are the hosts, the others bound what is fetched.
            tls: Which certificates are trusted; the machine's where None.
        """
        self.limits = limits
        self.tls = tls or ssl.create_default_context()

    async def inline(self, raws: Sequence[RawInput]) -> list[RawInput]:
        """Return inputs without remote images: each is fetched, all at once.

        Raises:
            FieldError: one may not be fetched, does not come in time or is too large.
        """
        return list(await asyncio.gather(*(self._inline(raw) for raw in raws)))

    async def _inline(self, raw: RawInput) -> RawInput:
        if raw.image is None or not is_remote(raw.image):
            return raw
        path = raw.path_of("image")
        self._require_allowed(raw.image, path)
        try:
            async with asyncio.timeout(self.limits.image_fetch_s):
                content = await self._fetch(raw.image, path)
        except TimeoutError:
            raise self._failed(path, f"not within {self.limits.image_fetch_s:g} s") from None
        except NotPublicError:
            raise self._failed(path, "its host has an address that is not public") from None
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise self._failed(path, type(error).__name__) from None
        # The reader looks at the bytes themselves, whatever kind is said here.
        return replace(raw, image=f"data:image/png;base64,{base64.b64encode(content).decode()}")

    async def _fetch(self, url: str, path: str) -> bytes:
        """Return the body of a 200; nothing else is followed or read."""
        most, content = self.limits.image_bytes, bytearray()
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self.tls, network_backend=PublicAddresses(), max_connections=1
            ) as pool,
            pool.stream("GET", url, headers=HEADERS) as answer,
        ):
            if answer.status != 200:
                raise self._failed(path, f"status {answer.status}, and redirects are not followed")
            async for chunk in answer.aiter_stream():
                content += chunk
                if len(content) > most:
                    raise self._failed(path, f"more than {most} bytes")
        return bytes(content)

    def _require_allowed(self, url: str, path: str) -> None:
        """Raise unless this is an https address of a host in the allow-list."""
        hosts = self.limits.image_hosts
        if _host(url) not in {host.lower() for host in hosts}:
            raise FieldError(
                f"{path} is an address that this server fetches nothing from.",
                f"It fetches over https from {', '.join(hosts)}."
                if hosts
                else "Images are sent inside the request.",
                "Send data:image/png;base64,… or data:image/jpeg;base64,….",
                path,
            )

    def _failed(self, path: str, why: str) -> FieldError:
        return FieldError(
            f"{path} cannot be fetched: {why}.",
            f"An image comes within {self.limits.image_fetch_s:g} s, in at most "
            f"{self.limits.image_bytes} bytes, from a public address.",
            "Send the image inside the request.",
            path,
        )


def _host(url: str) -> str | None:
    """Return ``host`` or ``host:port`` of a plain https address; None of any other."""
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port or HTTPS_PORT
    except ValueError:
        return None
    if parts.scheme.lower() != "https" or "@" in parts.netloc or not parts.hostname:
        return None
    return parts.hostname if port == HTTPS_PORT else f"{parts.hostname}:{port}"
