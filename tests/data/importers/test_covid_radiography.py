"""COVID-19 Radiography: two folders of images, split so that copies stay together."""

from pathlib import Path

import numpy as np
from PIL import Image

from fedkim_ray.data.importers.covid_radiography import outline_of

from .imported import bring_in, examples_of
from .shipped_images import grey, write_covid


def test_two_folders_are_two_labels(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    write_covid(source, 20, 40)
    (source / "COVID/masks").mkdir()
    Image.fromarray(grey(3)).save(source / "COVID/masks/COVID-1.png")
    result = bring_in("covid_radiography", source, root, options={"size_px": 16})
    examples = examples_of(root, "covid19")
    assert (len(examples), sum(e.label or 0 for e in examples)) == (60, 20)
    assert result.record.rejected == {}
    places = {place for place in result.record.counts if place.startswith("clients/")}
    assert len(places) == 3


def test_copies_are_one_group(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    write_covid(source, 12, 12)
    # The same image with every pixel twice as wide and high, and as a colour image.
    twice = np.kron(grey(0), np.ones((2, 2), np.uint8))
    Image.fromarray(twice).save(source / "Normal/images/Normal-90.png")
    Image.fromarray(grey(0)).convert("RGB").save(source / "COVID/images/COVID-91.png")
    bring_in("covid_radiography", source, root, options={"size_px": 16})
    subjects = [e.subject_id for e in examples_of(root, "covid19")]
    assert len(subjects) == 26
    assert len(set(subjects)) == 24


def test_an_outline_has_a_bit_a_place() -> None:
    falling = np.tile(np.arange(90, 0, -10, np.uint8), (8, 1))
    assert outline_of(falling) == "ff" * 8
    assert outline_of(falling[:, ::-1].copy()) == "00" * 8
