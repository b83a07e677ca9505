"""From rows to batches, by numbers that a reader can check."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fedkim_ray.data.loading import (
    CLIP,
    Example,
    JoinedSamples,
    SampleSet,
    collate,
    decode_image,
    epoch_batches,
    load_batches,
    load_samples,
    standardise,
)
from fedkim_ray.data.schema import (
    DataSpec,
    FeatureSpec,
    ImageSpec,
    SeriesSpec,
    SignalSpec,
    sample_table,
    write_samples,
)
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

COVID, VQA = (next(t for t in TASKS if t.id == name) for name in ("covid19", "med_vqa"))
VITAL = SeriesSpec(
    hours=1,
    features=(
        FeatureSpec(name="hrt", unit="1/min", low=20, high=300, center=80, scale=10),
        FeatureSpec(name="temp", unit="degC", low=25, high=45, center=37, scale=0.5),
    ),
)
SPEC = DataSpec(
    image=ImageSpec(size_px=4),
    signal=SignalSpec(leads=("I",), num_samples=3),
    series={"vital": VITAL},
)


def png(grey: int, side: int = 4) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (side, side), grey).save(sink, "PNG")
    return sink.getvalue()


def row(index: int, task: str, **values: object) -> dict[str, object]:
    words = {"question": "?", "answer": "No", "label": 0}
    return {"sample_id": f"s{index}", "subject_id": f"p{index}", "task": task, **words, **values}


def mixed_rows() -> list[dict[str, object]]:
    """An image, an ECG, a vital sign whose temperature is missing, and an ECG."""
    return [
        row(0, "a", image=png(255)),
        row(1, "b", signal=np.array([[1, 2, 3]], np.float32)),
        row(
            2, "c", vital=np.array([[100, 0]], np.float32), vital_mask=np.array([[1, 0]], np.uint8)
        ),
        row(3, "b", signal=np.array([[4, 5, 6]], np.float32)),
    ]


@pytest.fixture
def examples() -> list[Example]:
    samples = SampleSet(sample_table(mixed_rows(), SPEC), SPEC)
    return [samples[i] for i in range(len(samples))]


def test_examples_carry_what_their_rows_have(examples: list[Example]) -> None:
    assert [sorted(e.arrays) for e in examples] == [["image"], ["signal"], ["vital"], ["signal"]]
    assert examples[2].observed["vital"].tolist() == [[True, False]]
    assert examples[0].label == 0
    assert examples[0].text is None


def test_a_question_in_words_alone_carries_text(examples: list[Example]) -> None:
    image, _, vital, _ = examples
    assert image.carried_for(COVID) == ("image",)
    assert replace(image, arrays={}).carried_for(COVID) == ("text",)
    both = replace(image, arrays={**vital.arrays, **image.arrays}, text="Cough.")
    assert both.carried_for(COVID) == ("image", "text", "vital")


def test_a_question_of_its_own_is_text_for_a_task_that_reads_text(examples: list[Example]) -> None:
    image, *_ = examples
    assert image.text is None
    assert image.carried_for(VQA) == ("image", "text")
    assert replace(image, text="A note.").carried_for(VQA) == ("image", "text")


def test_collate_keeps_modalities_apart(examples: list[Example]) -> None:
    batch = collate(examples, SPEC)
    assert batch.size == 4
    assert batch.inputs["image"].rows.tolist() == [0]
    assert batch.inputs["signal"].rows.tolist() == [1, 3]
    assert batch.inputs["signal"].values.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    assert batch.rows_of("b").tolist() == [1, 3]


def test_collate_standardises(examples: list[Example]) -> None:
    batch = collate(examples, SPEC)
    # White: (1 - 0.5) / 0.25 = 2.
    assert batch.inputs["image"].values.unique().tolist() == [2.0]
    # Heart rate: (100 - 80) / 10 = 2; the temperature was not measured.
    assert batch.inputs["vital"].values.tolist() == [[[2.0, 0.0]]]
    assert batch.inputs["vital"].observed.tolist() == [[[True, False]]]


def test_standardise_clips() -> None:
    values = torch.tensor([[[80.0, 38.0]], [[300.0, 20.0]]])
    z = standardise(values, torch.ones_like(values, dtype=torch.bool), VITAL)
    assert z.tolist() == [[[0.0, 2.0]], [[CLIP, -CLIP]]]


def test_an_epoch_visits_every_example_once() -> None:
    batches = list(epoch_batches(10, 4, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    visited = [i for batch in batches for i in batch]
    assert sorted(visited) == list(range(10))
    assert visited != list(range(10)), "shuffled"
    assert batches == list(epoch_batches(10, 4, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_neither_order_nor_content(examples: list[Example], workers: int) -> None:
    lists = [[3, 1], [0], [2, 2], [1]] * 5
    batches = list(load_batches(examples, lists, SPEC, workers))
    names = [[e.sample_id for e in batch.examples] for batch in batches]
    assert names == [[f"s{i}" for i in rows] for rows in lists]
    assert batches[0].inputs["signal"].values[:, 0].tolist() == [[4, 5, 6], [1, 2, 3]]


def test_a_consumer_may_stop_and_an_error_reaches_it(examples: list[Example]) -> None:
    endless = ([i % 4] for i in range(10**9))
    batches = load_batches(examples, endless, SPEC)
    assert [next(batches).size for _ in range(3)] == [1, 1, 1]
    batches.close()  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        list(load_batches(examples, [[0], [99]], SPEC))


def test_images_are_scaled_to_a_square() -> None:
    assert decode_image(png(51, side=9), 4).tolist() == [[pytest.approx(0.2)] * 4] * 4


def cut_short(encoded: bytes, num_bytes: int = 20) -> bytes:
    """Return a PNG whose header gives its pixels fewer bytes than they have."""
    at = encoded.index(b"IDAT") - 4
    return encoded[:at] + num_bytes.to_bytes(4, "big") + encoded[at + 4 :]


@pytest.mark.parametrize(
    ("encoded", "error"),
    [
        (b"Jane Doe, 1970", "UnidentifiedImageError"),
        (png(0, side=300)[:80], "OSError"),
        (cut_short(png(0, side=300)), "SyntaxError"),  # its text quotes the bytes
    ],
    ids=["no image", "cut off", "cut within"],
)
def test_a_broken_image_is_named_by_file_row_and_column(
    encoded: bytes, error: str, tmp_path: Path
) -> None:
    folder = Folder.at(tmp_path)
    rows = [row(i, "a", image=png(0)) for i in range(4)] + [row(4, "a", image=encoded)]
    write_samples(folder, "part-0.parquet", sample_table(rows[:2], SPEC))
    write_samples(folder, "part-1.parquet", sample_table(rows[2:], SPEC))
    came = f"An image of {len(encoded)} bytes cannot be decoded ({error})."
    said = f"'{tmp_path}/part-1.parquet', row 2, column 'image': {came} Images are"
    for samples in (load_samples(folder, SPEC), load_samples(folder, SPEC, rows=[1, 4])):
        with pytest.raises(DataError) as caught:
            list(samples)
        assert str(caught.value).startswith(said)
        assert not any(word in str(caught.value) for word in ("Jane", "s4", "p4"))
    with pytest.raises(DataError, match=r"^An image of"):
        SampleSet(sample_table(rows[4:], SPEC), SPEC)[0]


def test_files_of_a_folder_are_joined_in_name_order(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    rows = mixed_rows()
    # The parts carry different modalities: none may get lost.
    write_samples(folder, "part-1.parquet", sample_table(rows[2:], SPEC))
    write_samples(folder, "part-0.parquet", sample_table(rows[:2], SPEC))
    samples = load_samples(folder, SPEC)
    assert [example.sample_id for example in samples] == ["s0", "s1", "s2", "s3"]
    assert [sorted(e.arrays) for e in samples] == [["image"], ["signal"], ["vital"], ["signal"]]
    assert samples[2].arrays["vital"].tolist() == [[100.0, 0.0]]


def test_only_needed_columns_are_read(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    write_samples(folder, "part-0.parquet", sample_table(mixed_rows(), SPEC))
    samples = load_samples(folder, SPEC, ("vital", "text"))
    assert [sorted(e.arrays) for e in samples] == [[], [], ["vital"], []]
    assert samples[2].observed["vital"].tolist() == [[True, False]]
    assert load_samples(folder, SPEC, ()).table.column_names == [
        "sample_id", "subject_id", "task", "question", "answer", "label",
    ]  # fmt: skip


def test_only_needed_row_groups_are_read(tmp_path: Path) -> None:
    rows = [row(i, "b", signal=np.full((1, 3), i, np.float32)) for i in range(6)]
    table = sample_table(rows, SPEC)
    for part in range(2):
        path = tmp_path / f"part-{part}.parquet"
        pq.write_table(table.slice(3 * part, 3), path, row_group_size=1)
    # A row group that is not asked for may be broken: nobody looks at it.
    content = bytearray((tmp_path / "part-1.parquet").read_bytes())
    first = pq.read_metadata(tmp_path / "part-1.parquet").row_group(0).column(0)
    start = first.dictionary_page_offset or first.data_page_offset
    content[start : start + 20] = b"x" * 20
    (tmp_path / "part-1.parquet").write_bytes(content)
    samples = load_samples(Folder.at(tmp_path), SPEC, rows=[1, 4, 5])
    assert [e.sample_id for e in samples] == ["s1", "s4", "s5"]
    assert samples[1].arrays["signal"].tolist() == [[4, 4, 4]]
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_samples(Folder.at(tmp_path), SPEC, rows=[3])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no samples in"):
        load_samples(Folder.at(tmp_path), SPEC)


def test_joined_samples_run_end_to_end() -> None:
    rows = mixed_rows()
    parts = {
        "a": SampleSet(sample_table(rows[:1], SPEC), SPEC),
        "b": SampleSet(sample_table(rows[1:], SPEC), SPEC),
    }
    joined = JoinedSamples(parts)
    assert len(joined) == 4
    assert [joined[i].sample_id for i in range(4)] == ["s0", "s1", "s2", "s3"]
