"""Client n: one round of training on its own data, in plain PyTorch.

    theta = theta_global
    for each batch of each epoch:
        theta = Adam(theta, gradient of L^n + (mu/2) * ||theta - theta_global||^2)
    send theta - theta_global

Nothing is kept between rounds but the open data: the model takes theta_global, the optimizer is
new, and random numbers come from (seed, round, client).

Source: FedKIM section 3.1, https://arxiv.org/abs/2408.10276
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fedkim_ray.data.loading import Batch, JoinedSamples, epoch_batches, load_batches
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import TrainingDivergedError
from fedkim_ray.federation.client_data import group_examples, load_client_data
from fedkim_ray.federation.exchange import RoundPlan
from fedkim_ray.federation.objective import batch_loss, task_weights
from fedkim_ray.federation.scoring import metrics_of, score_heads
from fedkim_ray.federation.setup import ClientSetup
from fedkim_ray.federation.strategies.fedprox import proximal_term
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params, TaskId, param_group


class Client:
    """A client with its data open, ready for any round."""

    def __init__(self, setup: ClientSetup) -> None:
        """Read the client's data and build its light model.

        Raises:
            DataError: the data cannot be used.
        """
        self.setup = setup
        self.tasks = sorted(setup.tasks, key=lambda task: task.id)
        self.data = load_client_data(setup.data_url, setup.client_id, self.tasks, setup.spec)
        with torch.random.fork_rng(devices=[]):  # theta_global overwrites the initial values
            self.model = LightModel(setup.encoders, setup.spec, setup.all_tasks)
        self.num_examples = group_examples(self.model, self.tasks, self.data.train)
        self.theta = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if param_group(name) in self.num_examples
        }
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.theta)

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Train one round from the global parameters.

        Raises:
            ParamsMismatchError: the parameters are of another model.
            TrainingDivergedError: the loss became NaN or infinite.
        """
        started = time.perf_counter()
        with round_state(plan, self.setup.threads):
            self.model.load_params(theta_global)
            before = self._score(plan)
            loss = self._train(plan, theta_global)
            after = self._score(plan)
        metrics = metrics_of(before, after, self.data.valid)
        return ClientUpdate(
            client_id=plan.client_id,
            round_index=plan.round_index,
            delta={name: w.detach() - theta_global[name] for name, w in self.theta.items()},
            num_examples=dict(self.num_examples),
            metrics={**metrics, "train/loss": loss, "seconds": time.perf_counter() - started},
        )

    def _score(self, plan: RoundPlan) -> dict[TaskId, dict[str, float]]:
        return score_heads(self.model, self.tasks, self.data.valid, plan.local.batch_size)

    def _train(self, plan: RoundPlan, theta_global: Params) -> float:
        """Return the mean loss over all examples, each as it was met."""
        theta = list(self.theta.values())
        anchor = [theta_global[name] for name in self.theta]
        weights = task_weights({task: len(s) for task, s in self.data.train.items()})
        optimizer = fresh_adam(theta, plan.local.lr, plan.local.weight_decay)
        self.model.train()
        total, num_seen = 0.0, 0
        for batch in self._batches(plan):
            loss = batch_loss(self.model, batch, self.tasks, weights)
            total, num_seen = total + loss.item() * batch.size, num_seen + batch.size
            if plan.proximal_mu:
                loss = loss + proximal_term(theta, anchor, plan.proximal_mu)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return _require_finite(total / num_seen, plan)

    def _batches(self, plan: RoundPlan) -> Iterator[Batch]:
        """Yield every example once an epoch, tasks mixed, in this round's order."""
        examples = JoinedSamples(self.data.train)
        order = torch.Generator().manual_seed(seed_of(plan, "order"))
        for _ in range(plan.local.epochs):
            batches = epoch_batches(len(examples), plan.local.batch_size, order)
            yield from load_batches(examples, batches, self.setup.spec)


def fresh_adam(theta: Sequence[Tensor], lr: float, weight_decay: float) -> torch.optim.Adam:
    """Return an Adam without moments, and zero gradients.

    A batch without a modality has a zero gradient for that encoder, and Adam is to see it: skipping
    the encoder instead would give it another objective than L^n.
    """
    for w in theta:
        w.grad = torch.zeros_like(w)
    return torch.optim.Adam(theta, lr=lr, weight_decay=weight_decay, fused=True)


def seed_of(plan: RoundPlan, purpose: str) -> int:
    """Return the seed for one purpose of one client in one round of one run."""
    text = f"{plan.seed}/{plan.round_index}/{plan.client_id}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def round_state(plan: RoundPlan, threads: int) -> Iterator[None]:
    """Seed dropout and set torch's threads; afterwards both are as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(plan, "dropout"))
            yield
    finally:
        torch.set_num_threads(before)


def _require_finite(loss: float, plan: RoundPlan) -> float:
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"The loss of client {plan.client_id!r} in round {plan.round_index} is {loss}.",
            "A loss is finite.",
            "Lower federation.local.lr, or look for outliers in the client's data.",
        )
    return loss
