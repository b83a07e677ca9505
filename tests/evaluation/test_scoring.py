"""Real answers of a tiny bundle, in whatever order and batch they were asked."""

from collections.abc import Mapping

import numpy as np
import pytest

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.data.loading import SampleSet, collate, load_samples
from fedkim_ray.evaluation.answers import ANSWERS, of_task
from fedkim_ray.evaluation.scoring import num_tokens, score_samples
from fedkim_ray.injection.inference import score
from fedkim_ray.storage import Folder

TASKS = ("lung_opacity", "mortality", "med_vqa")


@pytest.fixture(scope="module")
def samples(bundle: LoadedBundle, tiny_root: str) -> Mapping[str, SampleSet]:
    """A few questions of an image, a table and a generated task."""
    root = Folder.at(tiny_root)
    whole = {t: load_samples(root / "test" / t, bundle.facts.spec) for t in TASKS}
    return {t: SampleSet(s.table.slice(0, 10), s.spec) for t, s in whole.items()}


def test_every_row_has_its_answer_in_order(
    bundle: LoadedBundle, samples: Mapping[str, SampleSet]
) -> None:
    answers = score_samples(bundle.model, samples, batch_size=7, max_new_tokens=3)
    assert answers.schema == ANSWERS
    asked = [x for s in samples.values() for x in s.table["sample_id"].to_pylist()]
    assert answers["sample_id"].to_pylist() == asked
    assert of_task(answers, "lung_opacity")["label"].to_pylist() == [0, 1] * 5
    assert of_task(answers, "med_vqa")["probability_yes"].null_count == 10
    assert set(of_task(answers, "med_vqa")["reading"].to_pylist()) == {"generate"}


def test_probability_is_the_models_and_not_the_batchs(
    bundle: LoadedBundle, samples: Mapping[str, SampleSet]
) -> None:
    answers = score_samples(bundle.model, samples, batch_size=7, max_new_tokens=3)
    for task in ("lung_opacity", "mortality"):
        alone = [
            float(score(bundle.model, collate([example], bundle.facts.spec))[0, 1])
            for example in samples[task]
        ]
        came = of_task(answers, task)["probability_yes"].to_numpy()
        np.testing.assert_allclose(came, alone, atol=1e-5)
        words = of_task(answers, task)["said"].to_pylist()
        assert words == ["Yes" if p > 0.5 else "No" for p in came]


def test_yes_no_can_be_generated_and_parsed(
    bundle: LoadedBundle, samples: Mapping[str, SampleSet]
) -> None:
    one = {"mortality": samples["mortality"]}
    answers = score_samples(bundle.model, one, batch_size=4, max_new_tokens=3, read="generate")
    assert set(answers["reading"].to_pylist()) == {"generate"}
    assert answers["probability_yes"].null_count == 10


def test_progress_ends_at_the_number_of_questions(
    bundle: LoadedBundle, samples: Mapping[str, SampleSet]
) -> None:
    told: list[tuple[int, int]] = []
    score_samples(
        bundle.model,
        samples,
        batch_size=8,
        max_new_tokens=1,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_lengths_differ_from_the_real_ones_by_the_template_alone(
    bundle: LoadedBundle, samples: Mapping[str, SampleSet]
) -> None:
    for task, rows in samples.items():
        guessed = num_tokens(bundle.model, bundle.model.tasks[task], rows)
        prompted = bundle.model.prompt(collate(list(rows), bundle.facts.spec))
        template = prompted.embeds_BLE.shape[1] - guessed.max()
        assert 0 < template < 30
        assert len(guessed) == len(rows)
