"""What runs in a client's Ray Train worker, and the actor that it talks to."""

import functools
import os
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import ControllerCallback

from fedkim_ray.federation.client import Client
from fedkim_ray.federation.exchange import ClientFailure, RoundPlan, serve_plans
from fedkim_ray.federation.mailbox import Mailbox, Payload
from fedkim_ray.federation.setup import ClientSetup
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_params, encode_update
from fedkim_ray.types import ClientId, Params


def run_client(config: dict[str, Any]) -> None:
    """Serve plans until the run is over: the train function of a client's Ray Train run.

    After a crash Ray Train calls it again, and the client asks for the plan it has not answered.
    """
    setup = ClientSetup.model_validate_json(config["setup"])
    torch.set_num_threads(setup.threads)
    exchange = RayExchange(setup.client_id, config["mailbox"])
    try:
        exchange.join()
        serve_plans(exchange, functools.cache(lambda: Client(setup)))
    except RayActorError:
        return  # the mailbox is gone, and with it the run


class RayExchange:
    """A client's end of the exchange within one Ray cluster, which is one trust domain."""

    def __init__(self, client_id: ClientId, mailbox: Any) -> None:
        self._client_id = client_id
        self._mailbox = mailbox
        self._theta_ref: Any = None

    def join(self) -> None:
        """Say that this process is there."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self._mailbox.join.remote(self._client_id, node, os.getpid()))

    def next_plan(self) -> RoundPlan | None:
        """Wait for the next plan; None when the run is over."""
        answer: tuple[RoundPlan, list[Any]] | None
        answer = ray.get(self._mailbox.next_plan.remote(self._client_id))
        if answer is None:
            return None
        plan, [self._theta_ref] = answer
        return plan

    def global_params(self) -> Params:
        """Return theta_global of the last plan, in memory of its own."""
        data: np.ndarray = ray.get(self._theta_ref)
        return decode_params(data.tobytes())

    def submit(self, update: ClientUpdate) -> None:
        """Hand in the update; returns once the mailbox owns a copy."""
        data = encode_update(update)
        self._theta_ref = None
        ray.get(
            self._mailbox.submit.remote(
                update.client_id, update.round_index, np.frombuffer(data, np.uint8), len(data)
            )
        )

    def fail(self, failure: ClientFailure) -> None:
        """Say that there will be no update."""
        self._theta_ref = None
        ray.get(self._mailbox.fail.remote(failure))


class OwningMailbox(Mailbox):
    """The mailbox as a Ray actor on the driver's node."""

    def __init__(self) -> None:
        super().__init__()
        self._controllers: list[Any] = []

    def keep(self, payload: Payload) -> Payload:
        """Put the update into this actor's ownership: a worker's objects die with the worker.

        The reference travels in a list, so that Ray hands on the reference and not the data.
        """
        return [ray.put(payload)]

    async def add_controller(self, controller: Any) -> None:
        """Note the controller of a client's Ray Train run."""
        self._controllers.append(controller)

    async def controllers(self) -> list[Any]:
        """Return the controllers of all runs."""
        return self._controllers


RayMailbox: Any = ray.remote(OwningMailbox)


class ControllerTold(ControllerCallback):
    """Tells the mailbox which actor controls a run: ``fit`` offers no other way to end one."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_controller_start(self, train_run_context: Any) -> None:
        """Send this controller's own handle."""
        controller = ray.get_runtime_context().current_actor
        ray.get(self._mailbox.add_controller.remote(controller))
