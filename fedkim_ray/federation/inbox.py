"""What has come in one round: each answer is validated on arrival and handed on in its turn."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedkim_ray.errors import FedKimError, RoundFailedError
from fedkim_ray.federation.clients import Delivered, OnEvent, Reply
from fedkim_ray.federation.plan import ClientFailure, RoundPlan, Work
from fedkim_ray.federation.report import ClientReport, FailureReport
from fedkim_ray.federation.round_policy import RoundFacts
from fedkim_ray.federation.spill import Spill
from fedkim_ray.federation.update import ClientUpdate, validate_update
from fedkim_ray.types import ClientId, Params


class Inbox:
    """One round's answers.

    Args:
        round_index: The round; an answer to another one is late and discarded.
        theta_global: What updates are validated against.
        on_event: Told of each answer.
        work: What was asked; an answer to something else is late, too.
        max_update_norm: Largest update that is let in.
        num_held: Updates that may wait in memory beside the one whose turn it is; others wait on
            disk. With 0 all of them do.
    """

    def __init__(
        self,
        round_index: int,
        theta_global: Params,
        on_event: OnEvent | None,
        *,
        work: Work = "train",
        max_update_norm: float | None = None,
        num_held: int = 0,
    ) -> None:
        self.round_index = round_index
        self.work: Work = work
        self.clients: dict[ClientId, ClientReport] = {}
        """Reports of those whose update is usable."""
        self.failures: list[FailureReport] = []
        self.late: list[ClientId] = []
        self.num_retries = 0
        self.bytes_down = 0
        self.num_spilled = 0
        """Updates that waited on disk."""
        self._theta_global = theta_global
        self._on_event = on_event
        self._max_update_norm = max_update_norm
        self._num_held = num_held
        self._spill = Spill()
        self._turns: list[ClientId] = []
        self._in_memory: dict[ClientId, ClientUpdate] = {}
        self._on_disk: dict[ClientId, ClientUpdate] = {}
        self._waiting: set[ClientId] = set()

    def ask(self, clients: Collection[ClientId], bytes_down: int) -> None:
        """Note that these clients were asked."""
        self._waiting = set(clients)
        self._turns = self._turns or sorted(clients)
        self.bytes_down += bytes_down

    def ask_again(self, clients: Collection[ClientId], bytes_down: int) -> None:
        """Note that these clients were asked once more."""
        self.num_retries += 1
        self.ask(clients, bytes_down)
        self.tell("round_retried", clients=sorted(clients))

    def next_attempt(self, plans: Mapping[ClientId, RoundPlan]) -> dict[ClientId, RoundPlan]:
        """Return the plans of clients whose update is missing, for one attempt more."""
        attempt = {"attempt": self.num_retries + 1}
        return {c: p.model_copy(update=attempt) for c, p in plans.items() if c not in self.clients}

    def facts(
        self, elapsed_s: float, round_s: float, gone: Collection[ClientId] = ()
    ) -> RoundFacts:
        """Return what the round policy decides on; ``gone`` are clients whose node is."""
        return RoundFacts(
            elapsed_s=elapsed_s,
            round_s=round_s,
            num_updates=len(self.clients),
            num_waiting=len(self._waiting),
            num_gone=len(self._waiting.intersection(gone)),
            num_retries=self.num_retries,
        )

    def take(self, reply: Reply) -> None:
        """Accept an answer, or note why it cannot be used; a second answer changes nothing."""
        if (reply.round_index, reply.work) != (self.round_index, self.work):
            self.late.append(reply.client_id)
            self.tell("late_update", client=reply.client_id, answers_round=reply.round_index)
        elif reply.client_id in self._waiting and not self._was_counted(reply):
            self._waiting.discard(reply.client_id)
            if isinstance(reply, ClientFailure):
                self._fail(reply.client_id, reply.code, reply.message)
            else:
                self._accept(reply)

    def stop_waiting(self, elapsed_s: float, gone: Collection[ClientId] = ()) -> None:
        """Count those that have not answered as failed."""
        for client_id in sorted(self._waiting):
            cause = "ClientLost" if client_id in gone else "ClientTimeout"
            where = "Its node is gone: it" if client_id in gone else "It"
            message = f"{where} had not answered after {elapsed_s:.0f} s."
            self._fail(client_id, cause, message)
        self._waiting.clear()

    def in_turn(self, failures_are_final: bool) -> Iterator[ClientUpdate]:
        """Yield the updates whose turn has come, in client-id order, and let go of them.

        Args:
            failures_are_final: Whether nobody will be asked again, so that a client that failed
                holds up nobody behind it.
        """
        while self._turns and self._turns[0] not in self._waiting:
            client_id = self._turns[0]
            if client_id in self._in_memory:
                yield self._in_memory.pop(client_id)
            elif client_id in self._on_disk:
                yield self._on_disk.pop(client_id)
            elif not failures_are_final:
                return
            self._turns.pop(0)

    def close(self) -> None:
        """Let go of everything that was spilled."""
        self._in_memory.clear()
        self._on_disk.clear()
        self._spill.close()

    def too_few(self, min_clients: int) -> RoundFailedError:
        """Return the error of a round without a quorum, with each client's last failure."""
        last = {failure.client_id: failure for failure in self.failures}
        causes = " ".join(f"{f.client_id}: {f.cause}: {f.message}" for f in last.values())
        return RoundFailedError(
            f"Round {self.round_index} has {len(self.clients)} usable updates after "
            f"{self.num_retries} retry. {causes}",
            f"A round needs {min_clients} (federation.min_clients, or the strategy's own bound); "
            "the server state is unchanged.",
            "Mend what the clients report, or raise federation.client_timeout_s, and resume.",
        )

    def tell(self, event: str, **facts: Any) -> None:
        """Tell whoever listens."""
        if self._on_event:
            self._on_event({"event": event, "round": self.round_index, **facts})

    def _was_counted(self, reply: Reply) -> bool:
        """Return whether it is an earlier attempt's failure; updates are the same in each."""
        return isinstance(reply, ClientFailure) and reply.attempt < self.num_retries

    def _accept(self, delivered: Delivered) -> None:
        try:
            update = delivered.load()
            norm = validate_update(update, self._theta_global, self._max_update_norm)
        except FedKimError as error:
            self._fail(delivered.client_id, type(error).__name__, str(error))
            return
        report = ClientReport(
            client_id=delivered.client_id,
            num_examples=dict(update.num_examples),
            metrics=dict(update.metrics),
            update_norm=norm,
            bytes_up=delivered.size_bytes,
        )
        self._hold(update)
        self.clients[report.client_id] = report
        self.tell(
            "client_finished", client=report.client_id, **report.model_dump(exclude={"client_id"})
        )

    def _hold(self, update: ClientUpdate) -> None:
        """Keep an update until its turn: in memory if that is now or there is room."""
        its_turn = self._num_held > 0 and self._turns[0] == update.client_id
        if its_turn or len(self._in_memory) < self._num_held:
            self._in_memory[update.client_id] = update
        else:
            self._on_disk[update.client_id] = self._spill.write(update)
            self.num_spilled += 1

    def _fail(self, client_id: ClientId, cause: str, message: str) -> None:
        self.failures.append(FailureReport(client_id=client_id, cause=cause, message=message))
        self.tell("client_failed", client=client_id, cause=cause, message=message)
