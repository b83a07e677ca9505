"""An evaluation on Ray workers gives the answers of one process."""

import pytest

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.ray_evaluate import RayQuestions, ray_workers
from fedkim_ray.storage import Folder

CONFIG = EvaluationConfig(batch_size=8, max_questions=48, max_new_tokens=2, bootstrap_samples=5)


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
