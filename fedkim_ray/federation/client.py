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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from fedkim_ray.data.loading import Batch, JoinedSamples, epoch_batches, load_batches
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import TrainingDivergedError
from fedkim_ray.federation.client_data import group_examples, load_client_data
from fedkim_ray.federation.half_round import HalfRound, Progress
from fedkim_ray.federation.objective import batch_loss, task_weights
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.scoring import metrics_of, score_heads
from fedkim_ray.federation.setup import ClientSetup, require_no_running_statistics
from fedkim_ray.federation.strategies.fedprox import proximal_term
from fedkim_ray.federation.team import Team, team_of_process
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import ClientId, Params, TaskId, param_group


class Client:
    """A client with its data open, ready for any round."""

    def __init__(
        self, setup: ClientSetup, model: LightModel | None = None, team: Team | None = None
    ) -> None:
        """Read the client's data and build its light model.

        Args:
            setup: Who this is.
            model: A light model to use instead, left by a client that is gone.
            team: This process's place among the client's workers; found where absent.

        Raises:
            DataError: the data cannot be used.
        """
        self.setup = setup
        self.team = team or team_of_process()
        self.tasks = sorted(setup.tasks, key=lambda task: task.id)
        self.data = load_client_data(setup.data_url, setup.client_id, self.tasks, setup.spec)
        self.model = model or new_model(setup)
        self.num_examples = group_examples(self.model, self.tasks, self.data.train)
        self.theta = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if param_group(name) in self.num_examples
        }

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Train one round from the global parameters.

        Raises:
            ParamsMismatchError: the parameters are of another model.
            TrainingDivergedError: the loss became NaN or infinite, in training or validation.
        """
        started = time.perf_counter()
        with round_state(plan, self.setup.threads, self.team.rank):
            self.model.load_params(theta_global)
            for name, parameter in self.model.named_parameters():  # another client may have shared
                parameter.requires_grad_(name in self.theta)  # the model since the last round
            before = self._score(plan)
            loss = self._train(plan, theta_global)
            after = self._score(plan)
        metrics = metrics_of({"_before": before, "_after": after}, self.data.valid)
        return ClientUpdate(
            client_id=plan.client_id,
            round_index=plan.round_index,
            delta={name: w.detach() - theta_global[name] for name, w in self.theta.items()},
            num_examples=dict(self.num_examples),
            metrics={**metrics, "train/loss": loss, "seconds": time.perf_counter() - started},
        )

    def score_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Score the global encoders and heads on the client's validation split; nothing is trained.

        Raises:
            ParamsMismatchError: the parameters are of another model.
            TrainingDivergedError: a validation loss is NaN or infinite.
        """
        started = time.perf_counter()
        with round_state(plan, self.setup.threads):
            self.model.load_params(theta_global)
            scores = self._score(plan)
        metrics = metrics_of({"": scores}, self.data.valid)
        return ClientUpdate(
            client_id=plan.client_id,
            round_index=plan.round_index,
            delta={},
            num_examples={},
            metrics={**metrics, "seconds": time.perf_counter() - started},
            work=plan.work,
        )

    def _score(self, plan: RoundPlan) -> dict[TaskId, dict[str, float]]:
        scores = score_heads(self.model, self.tasks, self.data.valid, plan.local.batch_size)
        for task, values in scores.items():
            _require_finite(values["loss"], f"validation loss of {task!r}", plan)
        return scores

    def _train(self, plan: RoundPlan, theta_global: Params) -> float:
        """Return the mean loss over all examples, each as it was met."""
        theta = list(self.theta.values())
        anchor = [theta_global[name] for name in self.theta]
        weights = task_weights({task: len(s) for task, s in self.data.train.items()})
        optimizer = fresh_adam(theta, plan.local.lr, plan.local.weight_decay)
        self.model.train()
        origin = f"{self.setup.model_dump_json()} {self.data.version}"
        half = HalfRound(plan, theta_global, self.team, origin)
        done = half.restore(self.theta, optimizer)
        for batch, size in self._batches(plan, skip=done.num_batches):
            loss = torch.zeros(())
            if batch is not None:  # a small batch may leave a worker without a share
                loss = batch_loss(self.model, batch, self.tasks, weights) * (batch.size / size)
            total = done.total_loss + loss.item() * size
            if plan.proximal_mu:
                term = proximal_term(theta, anchor, plan.proximal_mu)
                loss = loss + term / self.team.size  # the workers' gradients are summed
            optimizer.zero_grad(set_to_none=False)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            self.team.sum_gradients(theta)
            optimizer.step()
            done = Progress(done.num_batches + 1, done.num_examples + size, total)
            half.save(done, self.theta, optimizer)
        half.remove()
        mean = self.team.sum_number(done.total_loss) / done.num_examples
        return _require_finite(mean, "training loss", plan)

    def _batches(self, plan: RoundPlan, skip: int = 0) -> Iterator[tuple[Batch | None, int]]:
        """Yield this worker's share of each batch after the first ``skip``, and that batch's size.

        Every example comes once an epoch, tasks mixed, in this round's order.
        """
        examples = JoinedSamples(self.data.train)
        order = torch.Generator().manual_seed(seed_of(plan, "order"))
        for _ in range(plan.local.epochs):
            all_lists = list(epoch_batches(len(examples), plan.local.batch_size, order))
            lists, skip = all_lists[skip:], max(0, skip - len(all_lists))
            shares = [self.team.share(rows) for rows in lists]
            decoded = load_batches(examples, filter(None, shares), self.setup.spec)
            for rows, share in zip(lists, shares, strict=True):
                yield (next(decoded) if share else None), len(rows)


class OpenClients:
    """Opens clients when they are needed: few keep their data open, and all share one model.

    Args:
        setup_of: Gives a client's setup.
        num_open: Clients whose data stay open for their next round.
    """

    def __init__(self, setup_of: Callable[[ClientId], ClientSetup], num_open: int = 16) -> None:
        self._setup_of = setup_of
        self._model: LightModel | None = None
        self._open = lru_cache(num_open)(self._read)

    def __call__(self, client_id: ClientId) -> Client:
        """Return the client, ready for a round."""
        return self._open(client_id)

    def _read(self, client_id: ClientId) -> Client:
        setup = self._setup_of(client_id)
        self._model = self._model or new_model(setup)
        return Client(setup, self._model)


def new_model(setup: ClientSetup) -> LightModel:
    """Return a light model whose values theta_global will overwrite; no random state moves."""
    with torch.random.fork_rng(devices=[]):
        model = LightModel(setup.encoders, setup.spec, setup.all_tasks)
    require_no_running_statistics(model)
    return model


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
def round_state(plan: RoundPlan, threads: int, rank: int = 0) -> Iterator[None]:
    """Seed dropout and set torch's threads; afterwards both are as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(plan, f"dropout {rank}" if rank else "dropout"))
            yield
    finally:
        torch.set_num_threads(before)


def _require_finite(loss: float, what: str, plan: RoundPlan) -> float:
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"The {what} of client {plan.client_id!r} in round {plan.round_index} is {loss}.",
            "A loss is finite.",
            "Lower federation.local.lr, or look for outliers in the client's data.",
        )
    return loss
