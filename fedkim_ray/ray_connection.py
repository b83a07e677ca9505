"""The one way into Ray: the cluster that ``RAY_ADDRESS`` names, or a Ray of this process's own.

A plain ``ray.init()`` would join any head that it finds on this machine, somebody else's perhaps.
"""

import logging
import os
import socket
from typing import Any

import ray
from ray._private.state import state

from fedkim_ray.errors import EnvironmentProblemError

CONNECT_TIMEOUT_S = 5.0
"""Ray itself goes on trying an address where nobody listens for more than two minutes."""
LOCAL_ENV = {
    # Processes that it may start at once: a run is many small ones, and Ray warns where they are
    # several times this number, which is else the number of cores.
    "RAY_worker_maximum_startup_concurrency": "8",
    # A process a training run that looks for nodes about to be taken away: there is this one alone.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What a local Ray is told by way of the environment."""


def joins_a_cluster() -> bool:
    """Return whether Ray is somebody's cluster rather than a local one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def join_or_start(**local: Any) -> Any:
    """Join the cluster in ``RAY_ADDRESS``, or start a Ray; return Ray's context.

    Args:
        local: ``ray.init`` options of a local Ray, such as ``num_cpus``.

    Raises:
        EnvironmentProblemError: the cluster cannot be reached, or Ray does not start.
    """
    try:
        if joins_a_cluster():
            _require_listener(os.environ["RAY_ADDRESS"])
            return ray.init(log_to_driver=False)
        for name, value in LOCAL_ENV.items():
            os.environ.setdefault(name, value)
        return ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError, PermissionError) as error:
        raise EnvironmentProblemError(
            f"Ray could not be started or reached: {str(error).splitlines()[0]}",
            "Work is done in a Ray cluster (RAY_ADDRESS) or in a local Ray.",
            "Check RAY_ADDRESS, and RAY_AUTH_TOKEN where the cluster asks for a token; or unset "
            "RAY_ADDRESS for a local Ray.",
        ) from error


def most_resources() -> dict[str, float]:
    """Return what the cluster has or may grow to: an autoscaler's nodes come once work waits."""
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    grown = state.get_max_resources_from_cluster_config() or {}
    names = has.keys() | grown.keys()
    return {name: max(has.get(name, 0.0), float(grown.get(name, 0))) for name in names}


def kinds_to_come() -> list[dict[str, float]]:
    """Return the resources of a node of each kind that an autoscaler, if there is one, may add."""
    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return [dict(group.resources) for group in groups if group.max_count]


def _require_listener(address: str) -> None:
    """Raise ConnectionError where nobody listens at ``host:port``; Ray finds `auto` by itself."""
    host, colon, port = address.split("://")[-1].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(f"nobody listens at {address} ({error.strerror})") from None
