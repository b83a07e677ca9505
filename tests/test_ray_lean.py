"""Which of Ray Train's own helpers a run does without."""

from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from fedkim_ray.ray_lean import LeanTrainer, MemberTrainer


def names_of_callbacks(trainer: type[DataParallelTrainer]) -> list[str]:
    return [type(c).__name__ for c in trainer(print)._create_default_callbacks()]


def left_out(trainer: type[DataParallelTrainer]) -> set[str]:
    kept = names_of_callbacks(trainer)
    everything = names_of_callbacks(TorchTrainer)
    assert [name for name in everything if name in kept] == kept
    return set(everything) - set(kept)


def test_no_process_waits_for_questions_about_ray_data() -> None:
    assert left_out(LeanTrainer) == {"DatasetsCallback"}


def test_no_process_watches_over_a_members_controller() -> None:
    assert left_out(MemberTrainer) == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
