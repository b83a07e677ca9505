"""Fine-tuning on few shots: who is asked, what is tuned, and that it helps."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from fedkim_ray.bundle.read import LoadedBundle, load_bundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.loading import SampleSet, load_samples
from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.shot_figure import write_curve
from fedkim_ray.evaluation.shots import shot_curve, shot_split
from fedkim_ray.evaluation.tuning import injected_parameters, restore
from fedkim_ray.storage import Folder

CONFIG = EvaluationConfig(bootstrap_samples=20, max_new_tokens=2)


@pytest.fixture(scope="module")
def own_bundle(bundle_url: str) -> LoadedBundle:
    """A bundle in float32 that these tests may tune."""
    return load_bundle(bundle_url, "float32")


@pytest.fixture(scope="module")
def samples(own_bundle: LoadedBundle, tiny_root: str) -> SampleSet:
    return load_samples(Folder.at(tiny_root) / "test/sepsis", own_bundle.facts.spec)


def test_nobody_is_both_shown_and_asked(samples: SampleSet) -> None:
    pool, asked = shot_split(samples)
    subjects = samples.table["subject_id"].to_pylist()
    assert not {subjects[r] for r in pool} & {subjects[r] for r in asked}
    assert sorted(pool + asked) == list(range(48))
    assert len(pool) == 24


def test_labels_take_turns_and_the_halves_are_the_seeds(samples: SampleSet) -> None:
    pool, asked = shot_split(samples)
    assert Counter(samples[r].label for r in pool[:4]) == {0: 2, 1: 2}
    assert shot_split(samples) == (pool, asked)
    assert shot_split(samples, seed=1) != (pool, asked)


def test_shots_help_and_the_bundle_is_as_before(
    own_bundle: LoadedBundle, samples: SampleSet, tmp_path: Path
) -> None:
    before = {n: p.clone() for n, p in own_bundle.model.named_parameters()}
    task = own_bundle.model.tasks["sepsis"]
    told: list[tuple[str, int]] = []
    curve = shot_curve(
        own_bundle,
        task,
        samples,
        [16, 0],
        CONFIG,
        data_kind="synthetic",
        steps=12,
        on_progress=lambda model, k: told.append((model, k)),
    )
    assert told == [("injected", 0), ("injected", 16), ("uninjected", 0), ("uninjected", 16)]
    zero, tuned = curve.points
    assert (zero.shots, tuned.shots, curve.num_questions) == (0, 16, 24)
    for first, later in ((zero.injected, tuned.injected), (zero.uninjected, tuned.uninjected)):
        assert first.value is not None
        assert later.value is not None
        assert later.value > max(first.value, 0.9)
    after = dict(own_bundle.model.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before)
    write_curve(curve, Folder.at(tmp_path))
    assert (tmp_path / "shots.png").read_bytes()[:4] == b"\x89PNG"


def test_restored_parameters_route_as_at_the_start(own_bundle: LoadedBundle) -> None:
    model, keys = own_bundle.model, [("covid19", ("image",))]
    start = {n: p.detach().clone() for n, p in injected_parameters(model).items()}
    with torch.inference_mode():
        before = model.route(keys)
    model.forget_routes()
    with torch.no_grad():
        for name, p in injected_parameters(model).items():
            if name.startswith("router"):
                p.add_(torch.randn_like(p))
        assert not torch.equal(model.route(keys), before)
    restore(model, start)
    with torch.inference_mode():
        assert torch.equal(model.route(keys), before)


def test_only_what_injection_trained_is_tuned(own_bundle: LoadedBundle) -> None:
    tuned = injected_parameters(own_bundle.model)
    frozen = {n for n, _ in own_bundle.model.named_parameters()} - tuned.keys()
    assert any("lora_A" in n for n in tuned)
    assert all(n.startswith("llm.") and "lora_" not in n for n in frozen)


def test_more_shots_than_the_pool_has_are_refused(
    own_bundle: LoadedBundle, samples: SampleSet
) -> None:
    task = own_bundle.model.tasks["sepsis"]
    with pytest.raises(DataError, match=r"25 shots of 'sepsis'.*pool, with 24 rows"):
        shot_curve(own_bundle, task, samples, [25], CONFIG, data_kind="synthetic")
