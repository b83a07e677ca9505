"""Scores enter a published bundle and its model card; at no moment is the bundle not whole."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedkim_ray.bundle.layout import (
    CARD,
    FORMAT_VERSION,
    KIND,
    SCORES,
    Interval,
    Scores,
    TaskScore,
    ValidationFacts,
)
from fedkim_ray.bundle.model_card import model_card
from fedkim_ray.bundle.read import read_facts
from fedkim_ray.bundle.write import add_scores
from fedkim_ray.errors import StorageError
from fedkim_ray.storage import Folder, open_published

TOLD = Scores(
    data_name="tiny",
    reading="likelihood",
    subset_note="All 40 questions.",
    tasks=(
        TaskScore(
            task="covid19",
            role="train",
            data_kind="synthetic",
            num_questions=40,
            metrics={
                "AUROC": Interval(value=0.75, low=0.5, high=0.875),
                "F1": Interval(value=None),
            },
        ),
    ),
)


def test_scores_enter_the_card_and_the_version_stays(bundle_url: str) -> None:
    folder = Folder.at(bundle_url)
    before = read_facts(folder)
    assert b"Not scored on test data yet" in folder.read_bytes(CARD)
    for _ in range(2):  # and once more: a run may be scored again
        add_scores(folder, TOLD)
        card = folder.read_bytes(CARD).decode()
        assert (
            "| covid19 | train | synthetic | 40 | AUROC 0.750 [0.500, 0.875], F1 undefined |"
            in card
        )
        assert "Not scored" not in card
        assert yaml.safe_load(card.split("---")[1])["base_model"] == "tiny-random"
        manifest = open_published(folder, KIND, FORMAT_VERSION)
        assert SCORES in manifest["files"]
        assert manifest["version"] == before.version
        assert Scores.model_validate(folder.read_json(SCORES)) == TOLD


def test_a_kill_at_any_write_leaves_the_bundle_whole(
    bundle_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write_bytes
    # The manifest without the two files, the two, the manifest with them.
    for allowed in range(5):
        left = iter(range(allowed))

        def write_some(self: Folder, name: str, data: bytes, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            write(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write_bytes", write_some)
            if allowed < 4:
                with pytest.raises(KeyboardInterrupt):
                    add_scores(Folder.at(bundle_url), TOLD)
            else:
                add_scores(Folder.at(bundle_url), TOLD)
        read_facts(Folder.at(bundle_url))


def test_scores_of_an_altered_bundle_are_refused(bundle_url: str) -> None:
    (Path(bundle_url) / CARD).write_text("Something else.")
    with pytest.raises(StorageError, match=r"README.md' has SHA-256"):
        add_scores(Folder.at(bundle_url), TOLD)


def test_the_card_tells_how_examples_were_routed(
    bundle_url: str, write_tiny_bundle: Callable[[Path, str], str], tmp_path: Path
) -> None:
    facts = read_facts(Folder.at(bundle_url))
    assert facts.routing is not None
    assert facts.routing.expert_load == (0.5, 0.25, 0.25)
    card = model_card(facts)
    # 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2, of at most ln 3.
    assert f"is\n{1.5 * math.log(2):.3f} nats, of at most {math.log(3):.3f}" in card
    assert "| 0 | 0.500 |\n| 1 | 0.250 |\n| 2 | 0.250 |" in card
    plain = read_facts(Folder.at(write_tiny_bundle(tmp_path / "plain", "lora")))
    assert plain.routing is None
    assert "## Routing" not in model_card(plain)


def test_the_card_tells_of_both_tables_what_was_left_out(bundle_url: str) -> None:
    facts = read_facts(Folder.at(bundle_url)).model_copy(update={"training": {"mortality": 0.5}})
    card = model_card(facts, TOLD)
    assert card.count("| covid19 | left out of this run |") == 2


def test_the_card_tells_what_the_clients_validated(bundle_url: str) -> None:
    facts = read_facts(Folder.at(bundle_url))
    assert "validation data" not in model_card(facts)
    valid = ValidationFacts(num_examples=12, auroc_before=0.5, auroc_after=0.625)
    card = model_card(facts.model_copy(update={"validation": {"covid19": valid}}))
    assert "| covid19 | 12 | 0.500 | 0.625 |" in card
