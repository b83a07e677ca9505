"""A hospital's own table, as `--explain` explains it."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import ImportResult, run_import
from fedkim_ray.data.loading import Example, load_samples
from fedkim_ray.data.manifest.explain import example_mapping, read_mapping
from fedkim_ray.data.schema import TRAITS
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

Values = dict[str, object]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_own_data: Callable[..., None]) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    write_own_data(folder)
    return folder


def example() -> Values:
    values: Values = yaml.safe_load(example_mapping())
    return values


def run(source: Path, root: Path, values: Values, **fields: object) -> ImportResult:
    path = root.parent / "mapping.yaml"
    path.write_text(yaml.safe_dump(values))
    (root.parent / "key").write_text("5a" * 32)
    defaults: dict[str, object] = {"key_path": root.parent / "key", "workers": 1}
    return run_import(
        ImportRequest(
            importer="manifest",
            source=str(source),
            root=str(root),
            options={"mapping": read_mapping(path)},
            **{**defaults, **fields},  # type: ignore[arg-type]
        )
    )


def all_examples(root: Path, result: ImportResult) -> list[Example]:
    folders = sorted({name.rsplit("/", 1)[0] for name in result.card.files})
    return [e for f in folders for e in load_samples(Folder.at(root) / f, result.card.spec)]


def test_the_explained_mapping_imports(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    result = run(source, root, example(), partition="site")
    assert check_root(Folder.at(root)) == []
    assert result.card.clients == ("harbor", "st-mary")
    assert result.record.rejected == {}
    examples = all_examples(root, result)
    assert len(examples) == 120
    ill = next(e for e in examples if e.label == 1)
    # Pulse of the second hour: 80 + 30 + 1; 98.6 degrees Fahrenheit in the third are 37 Celsius.
    assert ill.arrays["vital"][1, 0] == 111.0
    assert ill.arrays["vital"][2, 1] == pytest.approx(37.0, abs=1e-4)
    assert ill.observed["vital"].sum(0).tolist() == [4, 1]
    assert ill.arrays["lab"].tolist() == [[900.0]]
    assert ill.arrays["image"].shape == (64, 64)
    # Two waves a second of half a millivolt; the file's second lead is lead I, upside down.
    assert ill.arrays["signal"].shape == (2, 1000)
    assert ill.arrays["signal"][0].max() == pytest.approx(0.5, abs=0.05)
    assert ill.text == "Chest pain, sudden"
    assert result.card.kind_of("needs_cath") == "real"
    assert "ethics vote" in result.card.sources[0].licence


def test_patients_stay_together_and_unnamed(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    result = run(source, root, example())
    subjects = {e.subject_id for e in all_examples(root, result)}
    assert len(subjects) == 60
    everything = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert b"P0003" not in everything


def test_test_rows_alone_say_whom_they_are_about(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    result = run(source, root, example(), partition="site")
    spec, test = result.card.spec, Folder.at(root) / "test/needs_cath"
    for row in load_samples(test, spec).table.select(TRAITS.names).to_pylist():
        # Patient k is 20 + k years old, in turn two to a hospital; every third is a man.
        patient = row["age_years"] - 20
        assert row["sex"] == ("male" if patient % 3 == 0 else "female")
        assert row["site"] == ("St Mary", "Harbor")[patient % 4 // 2]
    for name in (n for n in result.card.files if not n.startswith("test/")):
        assert not {*TRAITS.names} & {*pq.read_schema(root / name).names}


def edit(source: Path, folder: Path, line: int, **cells: object) -> None:
    """Write ``source``'s table into ``folder`` with some cells of one line changed."""
    with (source / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[line - 1] |= {name: str(value) for name, value in cells.items()}
    with (folder / "patients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def copy(tmp_path: Path, write_own_data: Callable[..., None]) -> Path:
    """A source of its own for one test."""
    folder = tmp_path / "copy"
    write_own_data(folder, num_patients=24, visits=1)
    return folder


@pytest.mark.parametrize(
    ("cells", "reason", "column"),
    [
        ({"patient_no": ""}, "subject_missing", "patient_no"),
        ({"cath": "NA"}, "label_missing", "cath"),
        ({"cath": "perhaps"}, "label_unknown", "cath"),
        ({"xray": "files/no.png"}, "file_missing", "xray"),
        ({"xray": "Effusion " * 40}, "file_missing", "xray"),
        ({"ecg": "Sinus rhythm " * 30}, "file_missing", "ecg"),
        ({"xray": "../../etc/passwd"}, "path_escapes", "xray"),
        ({"xray": "/etc/passwd"}, "path_escapes", "xray"),
        ({"xray": "patients.csv"}, "image_corrupt", "xray"),
        ({"ecg": "files/0.png"}, "file_missing", "ecg"),
        ({"ecg": "patients.csv"}, "signal_corrupt", "ecg"),
        ({"troponin": "high"}, "not_a_number", "troponin"),
        ({"troponin": "inf"}, "not_finite", "troponin"),
        ({"troponin": "-5"}, "value_impossible", "troponin"),
    ],
)
def test_a_bad_cell_is_rejected_by_row_and_column(
    copy: Path, tmp_path: Path, cells: Values, reason: str, column: str
) -> None:
    edit(copy, copy, 7, **cells)
    result = run(copy, tmp_path / "root", example(), max_rejected=0.1)
    assert result.rejected_places == (("patients.csv", 7, column, reason),)


def test_a_restored_file_is_read(copy: Path, tmp_path: Path) -> None:
    whole = (copy / "files/6.png").read_bytes()
    (copy / "files/6.png").unlink()
    with pytest.raises(DataError, match="1 of 24 examples cannot be used: file_missing 1"):
        run(copy, tmp_path / "root", example())
    (copy / "files/6.png").write_bytes(whole)
    assert run(copy, tmp_path / "root", example()).record.rejected == {}


def test_again_reads_what_a_refused_import_has_read(copy: Path, tmp_path: Path) -> None:
    edit(copy, copy, 7, cath="perhaps")
    with pytest.raises(DataError, match="label_unknown 1"):
        run(copy, tmp_path / "root", example())
    (copy / "files/3.png").write_bytes(b"changed")
    result = run(copy, tmp_path / "root", example(), again=True, max_rejected=0.1)
    assert result.record.rejected == {"image_corrupt": 1, "label_unknown": 1}


def test_a_source_and_a_root_may_have_brackets_in_their_names(copy: Path, tmp_path: Path) -> None:
    source = copy.rename(tmp_path / "[2025] export")
    root = tmp_path / "root [2025]"
    result = run(source, root, example())
    assert result.card.num_examples("") == 24
    os.utime(source / "patients.csv", (0, 0))
    assert not run(source, root, example()).unchanged, "the table is another"


def test_a_word_of_the_mapping_is_a_label_and_not_a_gap(copy: Path, tmp_path: Path) -> None:
    # The mapping's words for no are `no` and `none`.
    edit(copy, copy, 7, cath=" None ")
    assert run(copy, tmp_path / "root", example()).record.rejected == {}


def test_an_impossible_value_may_count_as_missing(copy: Path, tmp_path: Path) -> None:
    edit(copy, copy, 7, troponin="-5")
    result = run(copy, tmp_path / "root", {**example(), "impossible": "missing"})
    assert result.record.rejected == {}
    assert result.record.out_of_range == {"troponin": 1}


def test_impossible_values_of_an_hour_are_found_one_by_one(copy: Path, tmp_path: Path) -> None:
    # Hour 0 of the seventh visit has a pulse of 80; with 0 and 160 the mean is possible again.
    with (copy / "vitals.csv").open("a") as file:
        file.write("6,0,pulse,0\n6,0,pulse,160\n")
    result = run(copy, tmp_path / "root", example(), max_rejected=0.1)
    assert result.rejected_places == (("patients.csv", 7, "hrt", "value_impossible"),)
    counted = run(copy, tmp_path / "other", {**example(), "impossible": "missing"})
    assert counted.record.out_of_range == {"hrt": 1}


def test_a_link_that_leads_out_is_rejected(copy: Path, tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "outside.png")
    (copy / "files/3.png").unlink()
    (copy / "files/3.png").symlink_to(tmp_path / "outside.png")
    result = run(copy, tmp_path / "root", example(), max_rejected=0.1)
    assert result.record.rejected == {"path_escapes": 1}


def test_arrays_and_their_headers_are_held_together(copy: Path, tmp_path: Path) -> None:
    np.save(copy / "files/good.npy", np.random.default_rng(0).normal(size=(2500, 2)) * 100)
    edit(copy, copy, 7, ecg="files/good.npy")
    values = example()
    values["signal"] = {
        **values["signal"],  # type: ignore[dict-item]
        "file": {"rate_hz": 250, "unit": "uV", "leads": ["I", "II"]},
    }
    assert run(copy, tmp_path / "root", values).record.rejected == {}
    content = (
        (copy / "files/good.npy").read_bytes().replace(b"(2500, 2)", b"(9" + b"9" * 5 + b", 2)")
    )
    (copy / "files/good.npy").write_bytes(content)
    assert run(copy, tmp_path / "root", values).unchanged, "the table itself has not changed"
    result = run(copy, tmp_path / "root", values, max_rejected=0.1, again=True)
    assert result.record.rejected == {"signal_corrupt": 1}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv.gz", "semicolon"])
def test_other_kinds_of_tables_give_the_same(copy: Path, tmp_path: Path, kind: str) -> None:
    expected = run(copy, tmp_path / "root", example()).record.counts
    with (copy / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    name = _write_table(copy, rows, kind)
    values = {**example(), "table": name, "sample": "visit_no"}
    assert run(copy, tmp_path / "other", values).record.counts == expected


def _write_table(folder: Path, rows: list[dict[str, str]], kind: str) -> str:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"other.{kind}" if kind != "semicolon" else "other.csv"
    if kind == "jsonl":
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        typed = [{**row, "troponin": float(row["troponin"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(typed), folder / name)
    elif kind == "csv.gz":
        (folder / name).write_bytes(gzip.compress((folder / "patients.csv").read_bytes()))
    else:
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    return name


def test_a_missing_column_is_named_with_the_likely_one(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'patient_nr' .*mean 'patient_no'"):
        run(copy, tmp_path / "root", {**example(), "subject": "patient_nr"})


def test_a_ragged_row_is_named_without_its_values(copy: Path, tmp_path: Path) -> None:
    lines = (copy / "patients.csv").read_text().splitlines()
    lines[5] += ",one,too many"
    (copy / "patients.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"'patients\.csv' cannot be read at row 5") as caught:
        run(copy, tmp_path / "root", example())
    assert "too many" not in str(caught.value)


def broken(change: Callable[[Values], None]) -> Values:
    values = example()
    change(values)
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("subject"), "subject: Field required"),
        (lambda v: v.update(colour="red"), "colour: Extra inputs"),
        (lambda v: v.update(task="nothing"), "task 'nothing' is neither one of lung_opacity"),
        (lambda v: v.update(task="covid19"), "task 'covid19' reads image, not lab, signal"),
        (lambda v: v.pop("label"), "task 'needs_cath' needs `label`"),
        (lambda v: v["series"]["vital"].pop("key"), "a series with a table needs `key`"),
        (
            lambda v: v["series"]["vital"]["features"][0].update(source_unit="Hz"),
            "no conversion from 'Hz' to '1/min'",
        ),
    ],
)
def test_a_mapping_is_refused_before_anything_is_read(
    tmp_path: Path, change: Callable[[Values], None], message: str
) -> None:
    with pytest.raises(DataError, match=r"mapping\.yaml' cannot be used: ") as caught:
        run(tmp_path, tmp_path / "root", broken(change))
    assert message in str(caught.value)
