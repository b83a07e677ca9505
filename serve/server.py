"""Run the service from Python, on this machine's own Ray or the cluster that is connected."""

import contextlib
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import ray
from pydantic import ValidationError
from ray import serve as ray_serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from fedkim_ray.bundle.read import read_facts
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.ray_connection import join_or_start, joins_a_cluster
from fedkim_ray.storage import Folder
from serve.app import LOOPBACK_NAMES, ServeArgs, build_app
from serve.auth import ApiKeys
from serve.proxy_guard import PROXY_CALLBACK

APP_NAME = "fedkim"
POLL_S = 0.2


class RunningServer:
    """A service that answers at ``url``; as a context manager it ends with its block."""

    def __init__(self, url: str, args: ServeArgs, begun: contextlib.ExitStack) -> None:
        """Keep what there is to end.

        Args:
            url: Where the service answers.
            args: What it is made of.
            begun: Ends what this process began, the last first, and nothing else.
        """
        self.url = url
        self.args = args
        self._begun = begun

    def roll_out(self, bundle_url: str | None = None, **changes: Any) -> None:
        """Replace the bundle or other fields replica by replica, while the service answers.

        Requests that are under way end on the replicas that have them; going back is the same
        call with the former bundle.

        Args:
            bundle_url: The new bundle; the present one where None.
            changes: Further fields of ``ServeArgs``.

        Raises:
            StorageError: there is no whole bundle; nothing has changed then.
        """
        url = bundle_url or self.args.bundle
        read_facts(Folder.at(url))
        self.args = ServeArgs.model_validate(self.args.model_dump() | {"bundle": url} | changes)
        ray_serve.run(build_app(self.args), name=APP_NAME, route_prefix="/")

    def wait(self) -> None:
        """Block until Ctrl-C, then shut down."""
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            self.shutdown()

    def shutdown(self) -> None:
        """End the service once it has answered what is under way; Serve and Ray, where begun."""
        begun = self._begun.pop_all()
        if ray.is_initialized():  # else it is gone, and Serve would start another to look into
            with contextlib.suppress(Exception):
                begun.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


def run_server(
    bundle_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    no_auth: bool = False,
    timeout_s: float = 180.0,
    **options: Any,
) -> RunningServer:
    """Start the service and return once it answers.

    Args:
        bundle_url: The bundle, any fsspec URL.
        host: Address to bind; without API keys only a loopback address is allowed.
        no_auth: Let everybody on this machine ask without a key; needed where no file of API
            keys is given.
        port: Port to bind; 0 takes a free one.
        timeout_s: Seconds until the first answer.
        options: Further fields of ``ServeArgs``, such as ``samples`` or ``max_replicas``.

    Raises:
        StorageError: there is no whole bundle.
        EnvironmentProblemError: the port is taken, the key file is unusable, a stranger could
            ask without a key, a Ray Serve runs already, or the service does not start.
    """
    args = _args(bundle_url, host, no_auth, options)
    read_facts(Folder.at(bundle_url))  # a bad bundle is told in a second, not by a replica
    port = _free_port(host, port)
    begun = contextlib.ExitStack()
    server = RunningServer(f"http://{_in_url(host)}:{port}", args, begun)
    try:
        _start(args, host, port, begun)
        _wait_until_ready(server.url, args.hosts, timeout_s)
    except BaseException:
        server.shutdown()
        raise
    return server


def _args(bundle_url: str, host: str, no_auth: bool, options: dict[str, Any]) -> ServeArgs:
    """Return what the service is made of, once it is sure who may ask."""
    try:
        args = ServeArgs(bundle=bundle_url, no_auth=True, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise EnvironmentProblemError(
            f"{'.'.join(map(str, first['loc']))} cannot be used: {first['msg']}.",
            "The fields of the service and their limits are described in serve/app.py.",
            "Correct it.",
        ) from None
    if args.api_keys_file:
        ApiKeys.from_file(args.api_keys_file)
        return args.model_copy(update={"no_auth": False})
    if not no_auth or not _is_loopback(host):
        raise EnvironmentProblemError(
            f"The service would listen on {host!r} without API keys.",
            "Without keys it listens on a loopback address, and only where --no-auth says so.",
            "Give a key file (`python -m serve.auth` makes its lines), or --no-auth on 127.0.0.1.",
        )
    return args.model_copy(update={"hosts": args.hosts or (*LOOPBACK_NAMES, _in_url(host))})


def _start(args: ServeArgs, host: str, port: int, begun: contextlib.ExitStack) -> None:
    """Start Ray where it is not there, Serve, and the app; ``begun`` learns how each is ended.

    Raises:
        EnvironmentProblemError: one of them does not start, or a Serve is there already.
    """
    outlives_us = ray.is_initialized() or joins_a_cluster()  # our own Ray takes Serve with it
    if not ray.is_initialized():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        os.environ.setdefault(*PROXY_CALLBACK)
        join_or_start()
        begun.callback(ray.shutdown)
    _require_no_serve()
    if outlives_us:
        begun.callback(_end_serve)
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    begun.callback(ray_serve.delete, APP_NAME)
    try:
        ray_serve.run(build_app(args), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        raise EnvironmentProblemError(
            f"Ray Serve could not start the service: {str(error).splitlines()[0]}",
            "Its deployments start within a minute or two.",
            "See the replicas' logs in /tmp/ray/session_latest/logs/serve.",
        ) from None


def _require_no_serve() -> None:
    """Refuse a Ray where Serve runs: its address, and so who can ask, would not be ours.

    Raises:
        EnvironmentProblemError: it runs.
    """
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return
    apps = ", ".join(map(repr, ray_serve.status().applications)) or "no app"
    raise EnvironmentProblemError(
        f"Ray Serve runs in this Ray already, with {apps}.",
        "The service starts a Serve of its own, because one that runs keeps its own address, "
        "and an app of the same name would be replaced.",
        "Deploy there with `serve run serve.app:build_app bundle=URL` or `serve deploy`; or "
        "unset RAY_ADDRESS for a Ray of your own; or, if what runs is yours, end it with "
        "`serve shutdown`.",
    )


def _end_serve() -> None:
    """End the Serve that this process began, but for apps that others have brought there."""
    if ray_serve.status().applications.keys() <= {APP_NAME}:
        ray_serve.shutdown()  # type: ignore[no-untyped-call]


def _wait_until_ready(url: str, hosts: Sequence[str], timeout_s: float) -> None:
    """Block until the service answers; where it has names of its own, to one of those.

    Raises:
        EnvironmentProblemError: it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    # A name may begin with a star, for which any word does.
    headers = {"Host": hosts[0].replace("*", "ready")} if hosts else {}
    with httpx.Client(trust_env=False, timeout=10.0, headers=headers) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/readyz").status_code == 200:
                    return
            time.sleep(POLL_S)
    raise EnvironmentProblemError(
        f"The service at {url} did not answer within {timeout_s:g} s.",
        "It answers /readyz once the model is loaded.",
        "See /tmp/ray/session_latest/logs/serve; another Serve instance may hold another port.",
    )


def _free_port(host: str, port: int) -> int:
    """Return ``port`` once it is known to be free, or a free one for 0.

    Raises:
        EnvironmentProblemError: it is taken, or the host is no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise EnvironmentProblemError(
            f"{host}:{port} cannot be bound ({error.strerror}).",
            "The service needs an address of this machine and a free port.",
            "End what listens there, or choose another port.",
        ) from None


def _in_url(host: str) -> str:
    """Return a host as addresses and Host headers have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
