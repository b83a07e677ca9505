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


def machine_facts(address: str = "this machine") -> MachineFacts:
    """Look at the machine that this process runs on."""
    memory = psutil.virtual_memory()
    cuda = torch.cuda.is_available()
    return MachineFacts(
        address=address,
        versions={name: _version(name) for name in COMPARED},
        outside_range=tuple(_outside_range()),
        num_cpus=os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        compiler=shutil.which(os.environ.get("CXX", "c++")) or "",
        num_gpus=torch.cuda.device_count() if cuda else 0,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if cuda else "",  # type: ignore[no-untyped-call]
        user_id=os.getuid(),
    )


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
