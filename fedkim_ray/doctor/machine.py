"""Facts of one machine; the same code looks at this one and, inside Ray, at every node."""

import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version

import psutil
import torch
from packaging.requirements import Requirement

from fedkim_ray.doctor.facts import MachineFacts

COMPARED = ("fedkim-ray", "ray", "torch", "transformers", "peft", "deepspeed", "safetensors")
"""Packages whose versions must be the same on all nodes of a run."""


def machine_facts(
    address: str = "this machine",
    ray_folder: str | None = None,
    container: tuple[int, int] | None = None,
) -> MachineFacts:
    """Look at the machine, or the container, that this process runs in.

    Args:
        address: What to call it.
        ray_folder: Where Ray writes there; its default place where None.
        container: Bytes that the container uses, and may use; None where there is none.
    """
    total, free = _memory(container)
    cuda = torch.cuda.is_available()
    return MachineFacts(
        address=address,
        versions={name: _version(name) for name in COMPARED},
        outside_range=tuple(_outside_range()),
        num_cpus=os.cpu_count() or 1,
        memory_total_bytes=total,
        memory_free_bytes=free,
        disk_free_bytes=shutil.disk_usage(ray_folder or tempfile.gettempdir()).free,
        compiler=shutil.which(os.environ.get("CXX", "c++")) or "",
        num_gpus=torch.cuda.device_count() if cuda else 0,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if cuda else "",  # type: ignore[no-untyped-call]
        user_id=os.getuid(),
    )


def _memory(container: tuple[int, int] | None) -> tuple[int, int]:
    """Return the bytes there are, and those that are free: a container's limit counts."""
    machine = psutil.virtual_memory()
    if container is None:
        return machine.total, machine.available
    used, total = container
    return min(machine.total, total), min(machine.available, max(0, total - used))


def taken_ports(ports: Sequence[int], host: str = "127.0.0.1") -> list[int]:
    """Return those of ``ports`` that something listens on."""
    taken = []
    for port in ports:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex((host, port)) == 0:
                taken.append(port)
    return taken


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _outside_range() -> list[str]:
    wrong = []
    for line in requires("fedkim-ray") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        came = _version(wanted.name)
        if came == "absent" or not wanted.specifier.contains(came.partition("+")[0], True):
            wrong.append(f"{wanted.name} {came} (wants {wanted.specifier or 'any'})")
    return wrong
