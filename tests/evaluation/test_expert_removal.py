"""Taking experts away, one by one."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fedkim_ray.bundle.read import LoadedBundle, load_bundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.errors import RecipeError
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.expert_removal import without_expert
from fedkim_ray.evaluation.report import html_report, print_report
from fedkim_ray.evaluation.results import ExpertRemoval
from fedkim_ray.storage import Folder

CONFIG = EvaluationConfig(bootstrap_samples=20, max_questions=48, max_new_tokens=1)
KEYS = [("covid19", ("image",)), ("mortality", ("lab", "vital"))]


def test_the_others_share_its_weight_in_proportion(bundle: LoadedBundle) -> None:
    before = bundle.model.route(KEYS)
    with without_expert(bundle.model, 1):
        during = bundle.model.route(KEYS)
    expected = before.clone()
    expected[:, 1] = 0.0
    torch.testing.assert_close(during, expected / expected.sum(-1, keepdim=True))
    assert torch.equal(bundle.model.route(KEYS), before)


def test_a_sole_expert_leaves_the_others_alike(bundle: LoadedBundle) -> None:
    router = bundle.model.router
    assert router is not None
    hook = router.register_forward_hook(lambda _m, _i, a: torch.tensor([[0.0, 1.0, 0.0]] * len(a)))
    try:
        with without_expert(bundle.model, 1):
            assert bundle.model.route(KEYS[:1]).tolist() == [[0.5, 0.0, 0.5]]
    finally:
        hook.remove()


def test_every_task_has_a_change_for_every_expert(bundle: LoadedBundle, tiny_root: str) -> None:
    report = evaluate_bundle(
        bundle, Folder.at(tiny_root), CONFIG, ["covid19", "sepsis", "med_vqa"], remove_experts=True
    )
    asked = [(r.task, r.expert) for r in report.removals]
    assert sorted(asked) == [(t, p) for t in ("covid19", "sepsis") for p in range(3)]
    # The experts of this bundle differ, so taking one away changes some answer.
    assert any(r.change.value != 0.0 for r in report.removals)
    assert "When an expert is taken away" in html_report(report)
    said = io.StringIO()
    print_report(report, Console(file=said, width=160))
    assert "Change of AUROC without an expert" in said.getvalue()
    sepsis = report.result("sepsis").routing
    assert sepsis is not None
    assert set(sepsis.by_modality) == {"lab", "vital", "input", "output"}


def test_a_bundle_without_routing_is_refused(
    write_tiny_bundle: Callable[[Path, str], str], tiny_root: str, tmp_path: Path
) -> None:
    plain = load_bundle(write_tiny_bundle(tmp_path, "lora"))
    with pytest.raises(RecipeError, match="has 0 routed experts"):
        evaluate_bundle(plain, Folder.at(tiny_root), CONFIG, ["covid19"], remove_experts=True)


def test_nine_subjects_decide_nothing() -> None:
    change = Estimate(value=-0.2, low=-0.3, high=-0.1)
    decided = [
        ExpertRemoval(task="covid19", expert=0, change=change, num_subjects=n).is_decided
        for n in (9, 10, None)
    ]
    assert decided == [False, True, True]
