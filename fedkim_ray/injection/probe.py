"""Before a save is published, the saved values must answer as the live model does.

Under ZeRO a parameter may be a shard, or an empty tensor with its whole shape elsewhere, and a
value in the module may lag behind the optimizer's master. So the logits of a few examples are
computed, the saved values are put into the live module, and the logits must be the same.

Every function here is collective: all ranks call it in the same order.
"""

from typing import Any

import torch
from torch import Tensor

from fedkim_ray.data.loading import Batch
from fedkim_ray.errors import ParamsMismatchError, TrainingDivergedError
from fedkim_ray.injection.engine_state import put_params
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.types import Params

TOLERANCE = 1e-3
"""Of the largest logit. On one machine the same values give the same logits to the bit."""


class Probe:
    """A few examples, asked before and after a save."""

    def __init__(self, engine: Any, model: InjectedModel, batch: Batch) -> None:
        self.engine = engine
        self.model = model
        self.batch = batch

    def logits(self) -> Tensor:
        """Return the logits at the answer positions, (A, vocabulary), without dropout.

        Raises:
            TrainingDivergedError: one is not finite.
        """
        self.engine.eval()
        try:
            with torch.no_grad():
                logits: Tensor = self.engine(self.batch, want_logits=True)
        finally:
            self.model.release()
            self.engine.train()
        if not bool(torch.isfinite(logits).all()):
            raise TrainingDivergedError(
                "The model's answers are not finite any more.",
                "Finite weights of a sane size give finite logits.",
                "Lower injection.lr; this state was not published.",
            )
        return logits.float()

    def require_same(self, before: Tensor, saved: Params) -> None:
        """Put saved values into the live module and ask again.

        Raises:
            ParamsMismatchError: the answers changed.
        """
        put_params(self.model.trained_parameters(), saved)
        after = self.logits()
        off = float((after - before).abs().max() / before.abs().max())
        if not off <= TOLERANCE:
            raise ParamsMismatchError(
                f"The saved values change the probe's logits by {off:.2g} of the largest.",
                f"A save answers as the live model, within {TOLERANCE:g}.",
                "Nothing was published. Report this with the recipe: it is a fault of the save.",
            )
