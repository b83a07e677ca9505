"""Unfinished rounds: what injection goes on from after a kill in the middle of one.

Every few steps the whole state is published beside the round's own folder, under the number of
steps; the older one goes once the newer is whole, so a kill at any moment leaves one. The last
round's end always remains to start from.

<round>/injected.unfinished/00000040/      after 40 steps over all rounds
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import facts_of, load_state, require_sound, write_state
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState
from fedkim_ray.storage import Folder, is_published, open_published, publish, unpublish
from fedkim_ray.types import Params

KIND = "injection-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one round."""

    folder: Folder
    num_workers: int
    """Workers that train now; another number starts from the last round's end, because a worker's
    dropout depends on its rank."""

    @classmethod
    def beside(cls, round_folder: Folder, num_workers: int) -> "Checkpoints":
        """Return the checkpoints of the round that will be published in ``round_folder``."""
        folder = Folder.at(f"{round_folder.url}.unfinished", round_folder.claim)
        return cls(folder=folder, num_workers=num_workers)

    def latest(self, model: InjectedModel) -> tuple[InjectionState, StepLog] | None:
        """Return the newest whole checkpoint of as many workers, None where there is none.

        Raises:
            StorageError: it was altered after it was published.
            ParamsMismatchError: it does not fit the model.
        """
        for name in reversed(self.folder.names()):
            if not is_published(self.folder / name):
                continue
            manifest = open_published(self.folder / name, KIND, FORMAT_VERSION)
            if manifest["num_workers"] != self.num_workers:
                continue
            state, log = load_state(self.folder / name, manifest)
            require_sound(model, state)
            return replace(state, steps_in_round=int(manifest["steps_in_round"])), log
        return None

    def publish(
        self,
        model: InjectedModel,
        state: InjectionState,
        log: StepLog,
        verify: Callable[[Params], None],
    ) -> None:
        """Check and publish a state; older checkpoints then go."""
        require_sound(model, state)
        older = self.folder.names()
        facts = {
            **facts_of(state),
            "steps_in_round": state.steps_in_round,
            "num_workers": self.num_workers,
        }
        newest = self.folder / f"{state.step:08d}"
        with publish(newest, KIND, FORMAT_VERSION, **facts) as out:
            verify(write_state(out, state, log))
        for name in older:
            if self.folder / name != newest:
                unpublish(self.folder / name)

    def clear(self) -> None:
        """Remove them all: the round itself is published."""
        for name in self.folder.names():
            unpublish(self.folder / name)
        unpublish(self.folder)
