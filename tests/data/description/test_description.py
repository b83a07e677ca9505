"""Counts, missing values and pictures of a data root."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkim_ray.cli.main import app
from fedkim_ray.data.demo.tiny import write_tiny_root
from fedkim_ray.data.description.page import description_page
from fedkim_ray.data.description.survey import survey
from fedkim_ray.data.root import DatasetCard, Source, read_card, write_card
from fedkim_ray.data.schema import DataSpec, FeatureSpec, SeriesSpec, sample_table, write_samples
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

SPEC = DataSpec(
    series={
        "lab": SeriesSpec(
            hours=2,
            features=tuple(
                FeatureSpec(name=n, unit="g/dL", low=0, high=9) for n in ("alb", "hb", "none")
            ),
        )
    }
)


@pytest.fixture
def small_root(tmp_path: Path) -> Folder:
    """Two examples of one subject, two hours: albumin always measured, haemoglobin once."""
    values = np.array([[[2, 5, 0], [4, 0, 0]], [[4, 0, 0], [6, 0, 0]]], np.float32)
    seen = np.array([[[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]]], np.uint8)
    rows = [
        {
            "sample_id": str(i),
            "subject_id": "a",
            "task": "mortality",
            "question": "?",
            "answer": "Yes",
            "label": i,
            "lab": values[i],
            "lab_mask": seen[i],
        }
        for i in range(2)
    ]
    root = Folder.at(tmp_path)
    write_samples(root, "public/mortality/train/part-0.parquet", sample_table(rows, SPEC))
    source = Source(name="<b>made up</b>", kind="synthetic", licence="none", tasks=("mortality",))
    card = DatasetCard(name="small", sources=(source,), spec=SPEC, seed=0, split_rule="none")
    write_card(root, card)
    return root


def test_counts_and_missing_values(small_root: Folder) -> None:
    [facts] = survey(small_root, read_card(small_root))
    assert (facts.place, facts.split, facts.task) == ("public", "train", "mortality")
    assert (facts.num_examples, facts.num_subjects, facts.num_yes) == (2, 1, 1)
    assert facts.carrying == {"lab": 2}
    albumin, haemoglobin, never = facts.features["lab"]
    assert (albumin.observed, albumin.ever_observed) == (1.0, 1.0)
    # (2 + 4 + 4 + 6) / 4 = 4; squared distances 4 + 0 + 0 + 4, mean 2.
    assert (albumin.mean, albumin.deviation) == (4.0, pytest.approx(2**0.5))
    assert (haemoglobin.observed, haemoglobin.ever_observed, haemoglobin.mean) == (0.25, 0.5, 5.0)
    assert (never.observed, never.mean) == (0.0, None)


def test_a_source_cannot_write_into_the_page(small_root: Folder) -> None:
    card = read_card(small_root)
    page = description_page(small_root, card, survey(small_root, card))
    assert "&lt;b&gt;made up" in page
    assert "<b>made up" not in page


def test_files_that_are_elsewhere_are_named_and_not_counted(tmp_path: Path) -> None:
    write_tiny_root(str(tmp_path), num_private=16)
    shutil.rmtree(tmp_path / "clients/north")
    result = CliRunner().invoke(app, ["data", "describe", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert {place["place"] for place in told["places"]} == {"clients/south", "public", "test"}
    assert told["not_here"]
    assert all(name.startswith("clients/north/") for name in told["not_here"])
    assert "files of the card, clients/north/" in (tmp_path / "description.html").read_text()
    for folder in ("clients", "public", "test"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(DataError, match=r"None of the \d+ files on the card is at"):
        CliRunner().invoke(app, ["data", "describe", str(tmp_path)], catch_exceptions=False)


def test_the_page_has_a_place_before_work_starts(tmp_path: Path) -> None:
    command = ["data", "describe", "nowhere", "--page", str(tmp_path / "no/page.html")]
    with pytest.raises(DataError, match=r"page.html' cannot be written\. --page names a file"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_the_command_prints_and_draws_every_place_and_task(tiny_root: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["data", "describe", tiny_root, "--page", str(file)])
    assert result.exit_code == 0, result.output
    assert "lung_opacity" in result.output
    assert "50%" in result.output
    page = file.read_text()
    card = read_card(Folder.at(tiny_root))
    for place in ("north, train", "south, valid", "public", "test", *card.tasks_of("north")):
        assert place in page
    assert 'class="t synthetic"' in page
    # Balance, a map for each of four series, and pictures of images and ECGs.
    assert page.count("<svg") > 8
    assert "<script" not in page
    assert 'src="http' not in page
