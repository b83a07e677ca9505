"""A client's half-trained round on its own disk: a worker that is killed goes on mid-epoch.

Every ``local.checkpoint_every`` batches a worker writes its parameters, Adam's moments, the state
of its random numbers and how far it is, into the scratch folder of its own user. Whoever trains the
same round of the same run there, from the same global parameters and the same data, goes on from
it, to the same bits; a worker elsewhere begins anew. The file never leaves the client's machine,
and goes when the round is trained; one whose round was given up goes when another round begins
there, a week later.
"""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedkim_ray.data.packages import scratch_dir
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.team import Team
from fedkim_ray.federation.wire import encode_params
from fedkim_ray.storage import Folder
from fedkim_ray.types import Params

ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps for each parameter."""
KEPT_S = 7 * 24 * 3600.0
"""Seconds after which a file that nobody has touched is of a round that was given up."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round is."""

    num_batches: int = 0
    num_examples: int = 0
    total_loss: float = 0.0
    """Over examples, each as it was met."""


class HalfRound:
    """One worker's half-trained round.

    Args:
        plan: What is trained.
        theta_global: What it is trained from.
        team: This worker's place among the client's workers, who go on together or not at all.
        origin: What else the numbers follow from: the run, the client's setup and its data.
    """

    def __init__(self, plan: RoundPlan, theta_global: Params, team: Team, origin: str) -> None:
        self._every = plan.local.checkpoint_every
        self._team = team
        if self._every:
            same = plan.model_dump_json(exclude={"timeout_s", "attempt"})
            digest = hashlib.sha256(f"{same} {origin}".encode())
            digest.update(encode_params(theta_global).data)
            self._folder = scratch_dir() / "half_rounds"
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_old(self._folder)
            self._file = self._folder / f"{digest.hexdigest()}-{team.rank}-of-{team.size}"

    def restore(self, theta: Params, optimizer: torch.optim.Adam) -> Progress:
        """Take up what a killed worker left, and return how far it was."""
        if not self._every:
            return Progress()
        kept = self._read()
        at = int(kept.get("num_batches", 0))
        if not self._team.agrees(at) or at == 0:
            return Progress()
        with torch.no_grad():
            for name, w in theta.items():
                w.copy_(kept[f"theta.{name}"])
                optimizer.state[w] = {key: kept[f"{key}.{name}"] for key in ADAM}
        torch.set_rng_state(kept["random"])
        return Progress(at, int(kept["num_examples"]), float(kept["total_loss"]))

    def save(self, done: Progress, theta: Params, optimizer: torch.optim.Adam) -> None:
        """Write what there is, where it is time."""
        if not self._every or done.num_batches % self._every:
            return
        kept = {f"theta.{name}": w.detach() for name, w in theta.items()}
        for key in ADAM:
            kept |= {f"{key}.{name}": optimizer.state[w][key] for name, w in theta.items()}
        kept |= {
            "random": torch.get_rng_state(),
            "num_batches": torch.tensor(done.num_batches),
            "num_examples": torch.tensor(done.num_examples),
            "total_loss": torch.tensor(done.total_loss, dtype=torch.float64),
        }
        Folder.at(self._folder).write_tensors(self._file.name, kept)

    def remove(self) -> None:
        """Forget it: the round is trained."""
        if self._every:
            self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Tensor]:
        return Folder.at(self._folder).read_tensors(self._file.name) if self._file.exists() else {}


def _remove_old(folder: Path) -> None:
    """Remove the files of rounds that were given up, here or for another node."""
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another client's worker was faster
            if time.time() - file.stat().st_mtime > KEPT_S:
                file.unlink()
