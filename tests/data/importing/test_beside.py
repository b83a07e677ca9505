"""Several imports of a hospital's own tables in one data root."""

import csv
from pathlib import Path

import pytest
import yaml

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import ImportResult, run_import
from fedkim_ray.data.manifest.explain import read_mapping
from fedkim_ray.data.root import read_card, subjects_of
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

PATIENTS = 40
SPLIT = {"test_share": 0.3, "public_share": 0.3}


def mapping(task: str = "mortality") -> dict[str, object]:
    feature = {"name": "hrt", "unit": "1/min", "low": 20, "high": 300}
    return {
        "table": "stays.csv",
        "title": task,
        "licence": "internal",
        "task": task,
        "subject": "who",
        "label": "ill",
        "series": {"vital": {"features": [feature]}},
    }


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A table of forty patients."""
    return write_hospital(tmp_path / "hospital")


def write_hospital(folder: Path, pulse: int = 60) -> Path:
    folder.mkdir()
    with (folder / "stays.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "ill", "hrt"])
        writer.writerows([i, i % 2, pulse + i] for i in range(PATIENTS))
    return folder


def bring_in(
    source: Path, root: Path, values: dict[str, object], key: str = "a1", **fields: object
) -> ImportResult:
    files = {"mapping": root.parent / "mapping.yaml", "key": root.parent / f"key-{key}"}
    files["mapping"].write_text(yaml.safe_dump(values))
    files["key"].write_text(key * 32)
    request = {
        "importer": "manifest",
        "source": str(source),
        "root": str(root),
        "options": {"mapping": read_mapping(files["mapping"])},
        "key_path": files["key"],
        "rule": SPLIT,
        "workers": 1,
        **fields,
    }
    return run_import(ImportRequest(**request))  # type: ignore[arg-type]


def test_tables_of_two_tasks_lie_beside_each_other(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = bring_in(hospital, root, mapping("mortality"))
    second = bring_in(hospital, root, mapping("sepsis"))
    card = read_card(Folder.at(root))
    assert check_root(Folder.at(root)) == []
    assert first.card.files.items() <= card.files.items()
    assert (first.record.name, second.record.name) == ("mortality", "sepsis")
    assert [source.name for source in card.sources] == ["mortality", "sepsis"]
    # The same people: whoever is asked about the one is asked about the other.
    tested = [
        subjects_of(Folder.at(root), name, card.spec) for name in card.files if "test/" in name
    ]
    assert len(tested) == 2
    assert tested[0] == tested[1]
    assert bring_in(hospital, root, mapping("mortality")).unchanged


def test_a_person_is_one_however_an_export_writes_the_number(
    hospital: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    bring_in(hospital, root, mapping("mortality"))
    header, *rows = (hospital / "stays.csv").read_text().splitlines()
    with_points = [header, *(row.replace(",", ".0,", 1) for row in rows)]
    (hospital / "points.csv").write_text("\n".join(with_points) + "\n")
    bring_in(hospital, root, {**mapping("sepsis"), "table": "points.csv"})
    card = read_card(Folder.at(root))
    people = {s for n in card.files for s in subjects_of(Folder.at(root), n, card.spec)}
    assert len(people) == PATIENTS


def test_who_validates_does_so_in_every_import(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    header, *rows = (hospital / "stays.csv").read_text().splitlines()
    (hospital / "before.csv").write_text("\n".join([header, *rows[:6]]) + "\n")
    # One client, which validates on the first by rank: of six at first, then of forty.
    rule = {"test_share": 0.0, "public_share": 0.0, "valid_share": 0.0, "clients": 1}
    bring_in(hospital, root, {**mapping(), "table": "before.csv"}, name="before", rule=rule)
    card = bring_in(hospital, root, mapping(), rule=rule).card
    people = {
        part: {
            subject
            for name in card.files
            if f"/{part}/" in name
            for subject in subjects_of(Folder.at(root), name, card.spec)
        }
        for part in ("train", "valid")
    }
    assert not people["train"] & people["valid"]
    assert (len(people["train"]), len(people["valid"])) == (PATIENTS - 1, 1)


def test_other_data_of_the_same_name_are_kept(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = bring_in(hospital, root, mapping()).card
    other = write_hospital(tmp_path / "other", pulse=100)
    for source, values, key, differs in (
        (other, mapping(), "a1", "source"),
        (hospital, {**mapping(), "label": {"column": "ill", "positive": ["0"]}}, "a1", "mapping"),
        (hospital, mapping(), "b2", "key"),
    ):
        with pytest.raises(
            DataError, match=rf"import 'mortality' with another {differs}\..*--name"
        ):
            bring_in(source, root, values, key)
    assert read_card(Folder.at(root)) == before
    replaced = bring_in(other, root, mapping(), again=True).card
    assert replaced.num_examples("") == PATIENTS
    assert replaced.files.keys() == before.files.keys()
    assert replaced.fingerprint("") != before.fingerprint("")


def test_the_same_data_are_not_brought_in_twice(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    bring_in(hospital, root, mapping(), name="north")
    with pytest.raises(DataError, match="just these data already, under the name 'north'"):
        bring_in(hospital, root, mapping())


def test_what_an_import_that_did_not_end_left_is_no_part_of_another(
    hospital: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    bring_in(hospital, root, mapping(), name="north")
    (root / "dataset.json").unlink()  # the card goes first and comes last, the record before it
    (root / "imports/north/import.json").unlink()
    with pytest.raises(DataError, match=r"an import that did not end .*--name north"):
        bring_in(hospital, root, mapping())
    bring_in(hospital, root, mapping(), name="north")


def test_a_refused_import_leaves_the_one_before_as_it_is(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    values = {**mapping(), "sample": "who"}
    before = bring_in(hospital, root, values).card
    with (hospital / "stays.csv").open("a") as file:
        file.write("1,1,61\n2,0,62\n")  # two visits that the table has already
    with pytest.raises(DataError, match="2 of 42 examples cannot be used: duplicate 2"):
        bring_in(hospital, root, values)
    assert read_card(Folder.at(root)) == before
    assert check_root(Folder.at(root)) == []


def test_an_import_that_died_while_writing_goes_on_and_alone(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "root"
    bring_in(hospital, root, mapping())
    with monkeypatch.context() as patched:
        patched.setattr("fedkim_ray.data.importing.run.write_record", die)
        with pytest.raises(KeyboardInterrupt):
            bring_in(hospital, root, mapping(), again=True)
    with pytest.raises(DataError, match=r"an import that did not end .*--name mortality"):
        bring_in(hospital, root, mapping("sepsis"))
    assert bring_in(hospital, root, mapping()).card.num_examples("") == PATIENTS


def test_two_hospitals_with_numbers_and_keys_of_their_own(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    other = write_hospital(tmp_path / "other")
    own = {"partition": "site", "name": "north", "subjects_of": "north"}
    bring_in(hospital, root, {**mapping(), "site": {"value": "north"}}, **own)
    own = {"partition": "site", "name": "south", "subjects_of": "south"}
    card = bring_in(other, root, {**mapping(), "site": {"value": "south"}}, "b2", **own).card
    assert card.clients == ("north", "south")
    assert card.num_examples("") == 2 * PATIENTS
    assert check_root(Folder.at(root)) == []


@pytest.mark.parametrize("option", ["name", "subjects_of"])
def test_a_name_that_no_file_can_have_is_refused(
    hospital: Path, tmp_path: Path, option: str
) -> None:
    with pytest.raises(DataError, match=r"'\.\./a' is no name\."):
        bring_in(hospital, tmp_path / "root", mapping(), **{option: "../a"})


def test_people_under_two_keys_are_refused(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    bring_in(hospital, root, mapping())
    with pytest.raises(DataError, match=r"split with another key\..*--subjects-of"):
        bring_in(hospital, root, mapping("sepsis"), "b2")


def test_a_root_whose_clients_are_elsewhere_is_left_alone(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    card = bring_in(hospital, root, mapping()).card
    (root / "clients").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"clients/.* is on the card, and missing"):
        bring_in(hospital, root, mapping("sepsis"))
    assert read_card(Folder.at(root)) == card


def test_a_client_may_keep_all_of_its_patients(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shares = {"test_share": 0.0, "public_share": 0.0}
    kept = bring_in(hospital, root, mapping(), rule=shares)
    assert kept.card.num_examples("clients/") == PATIENTS
    assert not (root / "public").exists()
    assert not (root / "test").exists()
    # Limits 20 to 300 stand in for the scale; then another import's public rows give it.
    assert kept.card.spec.series["vital"].features[0].center == 160.0
    other = write_hospital(tmp_path / "other")
    both = bring_in(other, root, mapping(), name="z", subjects_of="z").card
    assert 60.0 <= both.spec.series["vital"].features[0].center <= 60.0 + PATIENTS
