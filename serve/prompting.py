"""Questions laid out as the language model reads them: the part that both engines share."""

import time
from collections.abc import Sequence

import torch

from fedkim_ray import telemetry
from fedkim_ray.bundle.layout import BundleFacts
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.metric_names import ENCODE_SECONDS
from fedkim_ray.types import Task, TaskId
from serve.encoding import FeatureEncoder, plain_batch, side_by_side
from serve.engine import EngineRequest, Features, Origin
from serve.errors import StaleInputsError


class PromptWriter:
    """Encodes, routes and embeds questions; one thread at a time may use it."""

    def __init__(self, facts: BundleFacts, model: InjectedModel) -> None:
        self.facts = facts
        self.model = model
        self._encoder = FeatureEncoder(facts, model.light, model.aligners)

    def require_own(self, requests: Sequence[EngineRequest]) -> None:
        """Refuse inputs that another bundle encoded, or laid out in another way than this one.

        Raises:
            StaleInputsError: a request has such inputs.
        """
        for request in requests:
            if not self._is_own(request):
                raise StaleInputsError(
                    "The inputs were prepared for another version of the model.",
                    f"This one is {self.facts.version}; a new bundle is rolling in.",
                    "Ask again after the time in Retry-After.",
                )

    def _is_own(self, request: EngineRequest) -> bool:
        if request.features:
            return request.features.bundle_version == self.facts.version
        spec, own = request.spec, self.facts.spec
        return spec is None or spec is own or spec.layout == own.layout

    def task_of(self, request: EngineRequest) -> Task:
        """Return a request's task as this bundle has it, or else as the asker described it."""
        return self.model.tasks.get(request.task.id, request.task)

    @torch.inference_mode()
    def prompt(self, requests: Sequence[EngineRequest]) -> Prompted:
        """Lay requests out as one batch; their tasks must be known to the model."""
        features = self._features(requests)
        aligned = side_by_side(features, list(self.model.light.groups), self.model.device)
        return self.model.prompt(plain_batch([r.example for r in requests]), aligned=aligned)

    @torch.inference_mode()
    def weights_by_task(self) -> dict[TaskId, tuple[float, ...] | None]:
        """Return alpha of every task with all of its modalities present; None without experts."""
        tasks = self.model.tasks.values()
        if self.model.router is None:
            return dict.fromkeys(task.id for task in tasks)
        alphas = self.model.route([(task.id, task.modalities) for task in tasks])
        return {t.id: tuple(alpha.tolist()) for t, alpha in zip(tasks, alphas, strict=True)}

    def origins(self, prompted: Prompted) -> list[Origin]:
        """Return what each row's answer comes from."""
        alphas = prompted.alpha_BP
        return [
            Origin(
                bundle_version=self.facts.version,
                expert_weights=None if alphas is None else tuple(alphas[row].tolist()),
                num_prompt_tokens=int(count),
            )
            for row, count in enumerate(prompted.mask_BL.sum(-1).tolist())
        ]

    def _features(self, requests: Sequence[EngineRequest]) -> list[Features]:
        """Return what was encoded elsewhere; encode here what was not."""
        known = {i: r.features for i, r in enumerate(requests) if r.features}
        raw = [i for i in range(len(requests)) if i not in known]
        if raw:
            started = time.perf_counter()
            encoded = self._encoder.encode([requests[i].example for i in raw])
            telemetry.observe(ENCODE_SECONDS, time.perf_counter() - started)
            known |= dict(zip(raw, encoded, strict=True))
        return [known[i] for i in range(len(requests))]


def end_tokens(model: InjectedModel) -> frozenset[int]:
    """Return the tokens by which the model ends an answer."""
    close = model.tokenizer(model.format.answer_close, add_special_tokens=False).input_ids[0]
    return frozenset({int(close), int(model.tokenizer.eos_token_id)})
