"""A run's events as metrics: what the driver tells Prometheus of the run as a whole."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedkim_ray import metric_names as names
from fedkim_ray import telemetry
from fedkim_ray.errors import TakenOverError
from fedkim_ray.injection.step_log import StepLog

PHASES = {"aggregated": "publish", "injected": "inject", "scored": "evaluate"}
"""Events that end a phase, with its ``seconds``; the round's report has those before."""


class RunMetrics:
    """Told every event of a run, in order; exports those that come while the run goes on.

    Args:
        client_timeout_s: Seconds that a round waits for a client; a round may ask twice.
        clock: Unix time.
    """

    def __init__(self, client_timeout_s: float, clock: Callable[[], float] = time.time) -> None:
        self.quiet_limit_s = 2 * client_timeout_s
        self._clock = clock
        self._last_step_at = 0.0
        self._goes_on = False

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Say for the length of a block that the run goes on, and what ended it if an error did."""
        self._goes_on = True
        self._beat()
        try:
            yield
        except TakenOverError:
            raise  # the run goes on elsewhere
        except Exception as error:
            telemetry.inc(names.RUN_FAILURES, cause=type(error).__name__)
            raise
        finally:
            self._goes_on = False
            telemetry.set_gauge(names.RUN_ACTIVE, 0)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Export what one event says."""
        if not self._goes_on:
            return
        self._beat()
        if event["event"] in PHASES:
            telemetry.inc(names.PHASE_SECONDS, event["seconds"], phase=PHASES[event["event"]])
        if event["event"] == "injection_step":
            self._step(event["loss"])
        elif event["event"] == "injection_started":
            self._last_step_at = 0.0

    def injected(self, log: StepLog) -> None:
        """Export the losses and the routing that a round's injection ended with."""
        for task, losses in log.loss_by_task.items():
            telemetry.set_gauge(names.INJECTION_LOSS, losses[-1][1], task=task)
        if log.expert_load:
            telemetry.set_gauge(names.INJECTION_ENTROPY, log.entropy_nats[-1])
            for expert, load in enumerate(log.expert_load[-1]):
                telemetry.set_gauge(names.INJECTION_EXPERT_LOAD, load, expert=str(expert))

    def _beat(self) -> None:
        telemetry.set_gauge(names.RUN_ACTIVE, 1)
        telemetry.set_gauge(names.QUIET_LIMIT, self.quiet_limit_s)
        telemetry.set_gauge(names.LAST_EVENT, self._clock())

    def _step(self, loss: float) -> None:
        now = self._clock()
        telemetry.inc(names.INJECTION_STEPS)
        telemetry.set_gauge(names.INJECTION_STEP_LOSS, loss)
        if self._last_step_at:  # the first step of a round also loaded the model
            telemetry.observe(names.INJECTION_STEP_SECONDS, now - self._last_step_at)
        self._last_step_at = now
