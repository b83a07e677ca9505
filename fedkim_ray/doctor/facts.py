"""What the doctor has seen, before anything is judged."""

from typing import Literal

from pydantic import Field

from fedkim_ray.types import ClientId, Frozen


class MachineFacts(Frozen):
    """What one machine has."""

    address: str
    versions: dict[str, str]
    """Of packages that all nodes must have in one version; ``absent`` where not installed."""
    outside_range: tuple[str, ...]
    """Packages that the project's requirements refuse, as ``name version (wants)``."""
    num_cpus: int
    memory_total_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    """Where Ray spills objects and writes logs."""
    compiler: str
    """Path of a C++ compiler; empty where there is none."""
    num_gpus: int
    nccl: str
    """NCCL's version; empty without CUDA."""
    user_id: int


class NodeFacts(Frozen):
    """One node of the cluster."""

    machine: MachineFacts
    clock_ahead_s: float
    """Its clock less the driver's."""
    clock_error_s: float
    """Half the round trip: the skew is known no better than this."""
    asks_token: bool
    """Whether its processes refuse who shows no token."""
    run_problem: str = ""
    """Why the driver's run folder cannot be written from there; empty where it can."""
    drives: bool = False
    """Whether the driver is on it."""
    resources: dict[str, float] = Field(default_factory=dict)
    """All that Ray may give out there, held or free."""
    labels: dict[str, str] = Field(default_factory=dict)
    """What it was started with, and Ray's own."""


class SilentNode(Frozen):
    """A living node of which nothing is known: no process starts there, or none answers."""

    address: str
    problem: str


class ClientFacts(Frozen):
    """One client, seen from the node that it will run on."""

    client: ClientId
    node: str = ""
    """Address; empty where no process of it starts."""
    failed: Literal["", "placement", "storage", "privacy", "bandwidth"] = ""
    """The step at which the look ended, in this order; empty where it was whole."""
    problem: str = ""
    """Why it ended there."""
    data_problem: str = ""
    """Why its own data cannot be read there; empty where they can."""
    readable_others: tuple[ClientId, ...] = ()
    """Other clients whose data can be read there too."""
    down_s: float = 0.0
    """Seconds for one global model to arrive."""
    up_s: float = 0.0
    """Seconds for one update of that size to come back."""
