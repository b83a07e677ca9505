"""What has come in one round: each answer is validated on arrival and loaded again when folded."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedkim_ray.errors import FedKimError, RoundFailedError
from fedkim_ray.federation.clients import Delivered, OnEvent, Reply
from fedkim_ray.federation.exchange import ClientFailure, RoundPlan
from fedkim_ray.federation.report import ClientReport, FailureReport, RoundReport, task_means
from fedkim_ray.federation.round_policy import RoundFacts
from fedkim_ray.federation.update import ClientUpdate, norm, validate_update
from fedkim_ray.types import ClientId, Params


class Inbox:
    """One round's answers.

    Args:
        round_index: The round; an answer to another one is late and discarded.
        theta_global: What updates are validated against.
        on_event: Told of each answer.
    """

    def __init__(self, round_index: int, theta_global: Params, on_event: OnEvent | None) -> None:
        self.round_index = round_index
        self._theta_global = theta_global
        self._on_event = on_event
        self._delivered: dict[ClientId, Delivered] = {}
        self._clients: dict[ClientId, ClientReport] = {}
        self._failures: list[FailureReport] = []
        self._late: list[ClientId] = []
        self._waiting: set[ClientId] = set()
        self._num_retries = 0
        self._bytes_down = 0

    def ask(self, clients: Collection[ClientId], bytes_down: int) -> None:
        """Note that these clients were asked."""
        self._waiting = set(clients)
        self._bytes_down += bytes_down

    def ask_again(self, clients: Collection[ClientId], bytes_down: int) -> None:
        """Note that these clients were asked once more."""
        self._num_retries += 1
        self.ask(clients, bytes_down)
        self.tell("round_retried", clients=sorted(clients))

    def without_update(self, plans: Mapping[ClientId, RoundPlan]) -> dict[ClientId, RoundPlan]:
        """Return the plans of clients whose update is missing."""
        return {c: plan for c, plan in plans.items() if c not in self._delivered}

    def facts(self, elapsed_s: float) -> RoundFacts:
        """Return what the round policy decides on."""
        return RoundFacts(
            elapsed_s=elapsed_s,
            num_updates=len(self._delivered),
            num_waiting=len(self._waiting),
            num_retries=self._num_retries,
        )

    def take(self, reply: Reply) -> None:
        """Accept an answer, or note why it cannot be used; a second answer changes nothing."""
        if reply.round_index != self.round_index:
            self._late.append(reply.client_id)
            self.tell("late_update", client=reply.client_id, answers_round=reply.round_index)
        elif reply.client_id in self._waiting:
            self._waiting.discard(reply.client_id)
            if isinstance(reply, ClientFailure):
                self._fail(reply.client_id, reply.code, reply.message)
            else:
                self._accept(reply)

    def stop_waiting(self, elapsed_s: float) -> None:
        """Count those that have not answered as failed."""
        for client_id in sorted(self._waiting):
            self._fail(client_id, "ClientTimeout", f"It had not answered after {elapsed_s:.0f} s.")
        self._waiting.clear()

    def updates(self) -> Iterator[ClientUpdate]:
        """Yield the usable updates in client-id order, one at a time."""
        for _, delivered in sorted(self._delivered.items()):
            yield delivered.load()

    def report(self, seconds: float) -> RoundReport:
        """Return what happened."""
        clients = tuple(report for _, report in sorted(self._clients.items()))
        return RoundReport(
            round_index=self.round_index,
            seconds=seconds,
            num_retries=self._num_retries,
            bytes_up=sum(client.bytes_up for client in clients),
            bytes_down=self._bytes_down,
            clients=clients,
            failures=tuple(self._failures),
            late_updates=tuple(self._late),
            tasks=task_means(clients),
        )

    def too_few(self, min_clients: int) -> RoundFailedError:
        """Return the error of a round without a quorum, with each client's last failure."""
        last = {failure.client_id: failure for failure in self._failures}
        causes = " ".join(f"{f.client_id}: {f.cause}: {f.message}" for f in last.values())
        return RoundFailedError(
            f"Round {self.round_index} has {len(self._delivered)} usable updates after "
            f"{self._num_retries} retry. {causes}",
            f"federation.min_clients asks for {min_clients}; the server state is unchanged.",
            "Mend what the clients report, or raise federation.client_timeout_s, and resume.",
        )

    def tell(self, event: str, **facts: Any) -> None:
        """Tell whoever listens."""
        if self._on_event:
            self._on_event({"event": event, "round": self.round_index, **facts})

    def _accept(self, delivered: Delivered) -> None:
        try:
            update = delivered.load()
            validate_update(update, self._theta_global)
        except FedKimError as error:
            self._fail(delivered.client_id, type(error).__name__, str(error))
            return
        report = ClientReport(
            client_id=delivered.client_id,
            num_examples=dict(update.num_examples),
            metrics=dict(update.metrics),
            update_norm=norm(update.delta),
            bytes_up=delivered.size_bytes,
        )
        self._delivered[delivered.client_id] = delivered
        self._clients[delivered.client_id] = report
        self.tell(
            "client_finished", client=report.client_id, **report.model_dump(exclude={"client_id"})
        )

    def _fail(self, client_id: ClientId, cause: str, message: str) -> None:
        self._failures.append(FailureReport(client_id=client_id, cause=cause, message=message))
        self.tell("client_failed", client=client_id, cause=cause, message=message)
