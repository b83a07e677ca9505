"""An evaluation on Ray workers gives the answers of one process."""

import pytest
from ray.exceptions import RayActorError, RayTaskError

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.ray_evaluate import RayQuestions, own_error, ray_workers
from fedkim_ray.storage import Folder

CONFIG = EvaluationConfig(batch_size=8, max_questions=48, max_new_tokens=2, bootstrap_samples=5)

NO_BUNDLE = RayQuestions(
    bundle_url="/nowhere",
    root_url="/nowhere",
    tasks=None,
    max_questions=None,
    read="likelihood",
    max_new_tokens=2,
)


def test_what_a_worker_raised_on_purpose_comes_back_as_it_was() -> None:
    raised = StorageError("There is no bundle.", "It has a manifest.", "Correct the path.")
    # As Ray hands it over: both a RayTaskError and a StorageError, whose text is the traceback.
    dual = RayTaskError("answer", "Traceback of many lines", raised).as_instanceof_cause()
    assert isinstance(dual, StorageError)
    assert str(own_error(dual)) == "There is no bundle. It has a manifest. Correct the path."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RayTaskError("answer", "Traceback", OSError("no space left")), "no space left"),
        (RayActorError(), "failed: The actor "),
    ],
)
def test_what_else_befell_a_worker_is_a_problem_of_the_cluster(
    error: RayTaskError | RayActorError, told: str
) -> None:
    own = own_error(error)
    assert isinstance(own, EnvironmentProblemError)
    assert told in str(own)


@pytest.mark.ray
def test_more_workers_than_the_cluster_has_room_for_are_refused(ray_cluster: None) -> None:
    with (
        pytest.raises(EnvironmentProblemError, match=r"may grow to, 4 CPUs\. .* reserve 5 at"),
        ray_workers(NO_BUNDLE, 5),
    ):
        pass


@pytest.mark.ray
def test_a_bundle_that_a_worker_cannot_see_is_said_to_be_absent(ray_cluster: None) -> None:
    with (
        pytest.raises(StorageError, match=r"^There is no .*nowhere"),
        ray_workers(NO_BUNDLE, 1) as ask,
    ):
        next(ask([[]]))


@pytest.mark.ray
def test_workers_answer_as_one_process_does(
    bundle: LoadedBundle, bundle_url: str, tiny_root: str, ray_cluster: None
) -> None:
    tasks, root = ("covid19", "mortality", "med_vqa"), Folder.at(tiny_root)
    asked = RayQuestions(
        bundle_url=bundle_url,
        root_url=tiny_root,
        tasks=tasks,
        max_questions=48,
        read="likelihood",
        max_new_tokens=2,
    )
    told: list[tuple[int, int]] = []
    with ray_workers(asked, 2, cpus_per_worker=0.5) as ask:
        spread = evaluate_bundle(
            bundle, root, CONFIG, tasks, on_progress=lambda *n: told.append(n), ask=ask
        )
    assert sorted(told)[-1] == (48, 48)
    alone = evaluate_bundle(bundle, root, CONFIG, tasks)
    assert spread.answers is not None
    assert alone.answers is not None
    for column in ("sample_id", "said"):
        assert spread.answers[column].to_pylist() == alone.answers[column].to_pylist()
    p, q = (r.answers["probability_yes"].drop_null().to_pylist() for r in (spread, alone))
    assert p == pytest.approx(q, abs=1e-6)
