"""Two hospitals import apart and hand out all but their private files."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fedkim_ray.cli.main import app
from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import
from fedkim_ray.data.joining import JoinResult, join_roots
from fedkim_ray.data.manifest.explain import read_mapping
from fedkim_ray.data.root import CARD, JOINED, DatasetCard, places_here, read_card, sample_files
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import DataError
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.setup import make_setups
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.pipeline import plan_run
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder
from fedkim_ray.types import Params

PATIENTS = 40
PULSE = {"north": 60, "south": 90}
SPLIT = {"test_share": 0.3, "public_share": 0.3}


def write_table(folder: Path, pulse: int) -> None:
    """Write forty patients, every other one ill, with a pulse each of their own."""
    rows = ["who,ill,hrt", *(f"{i},{i % 2},{pulse + i}" for i in range(PATIENTS))]
    folder.mkdir(exist_ok=True)
    table = folder / "stays.csv"
    if not table.exists() or table.read_text() != "\n".join(rows):  # its time is in the record
        table.write_text("\n".join(rows))


def mapping(site: str, **values: object) -> dict[str, object]:
    feature = {"name": "hrt", "unit": "1/min", "low": 20, "high": 300}
    return {
        "table": "stays.csv",
        "title": site,
        "licence": "internal",
        "task": "mortality",
        "subject": "who",
        "label": "ill",
        "site": {"value": site},
        "series": {"vital": {"features": [feature]}},
        **values,
    }


def bring_in(site: str, root: Path, **fields: object) -> DatasetCard:
    """Import a hospital's table, with a key and a numbering of its own, into a root."""
    place = root.parent
    write_table(place / f"{site}-tables", fields.pop("pulse", PULSE.get(site, 60)))  # type: ignore[arg-type]
    (place / "mapping.yaml").write_text(yaml.safe_dump(fields.pop("mapping", mapping(site))))
    key = place / f"{fields.pop('key', site)}.key"
    key.write_text(key.stem.encode().hex().ljust(64, "0"))
    request = {
        "importer": "manifest",
        "source": str(place / f"{site}-tables"),
        "root": str(root),
        "options": {"mapping": read_mapping(place / "mapping.yaml")},
        "key_path": key,
        "name": site,
        "subjects_of": site,
        "partition": "site",
        "rule": SPLIT,
        "workers": 1,
        **fields,
    }
    return run_import(ImportRequest(**request)).card  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each hospital's own root, and ``together`` with both of them in one."""
    folder = tmp_path_factory.mktemp("imported")
    for site in PULSE:
        bring_in(site, folder / site)
        bring_in(site, folder / "together")
    return folder


@pytest.fixture
def apart(imported: Path, tmp_path: Path) -> dict[str, Path]:
    """Each hospital's own root."""
    return {site: shutil.copytree(imported / site, tmp_path / site) for site in PULSE}


@pytest.fixture
def together(imported: Path) -> Path:
    """The same hospitals, imported into one root one after the other; do not write into it."""
    return imported / "together"


def hand_out(root: Path) -> Path:
    """Copy what leaves a hospital."""
    part = root.with_name(f"{root.name}-card")
    shutil.rmtree(part, ignore_errors=True)
    keep = shutil.ignore_patterns("clients", "rejected.parquet", "description.html")
    return Path(shutil.copytree(root, part, ignore=keep))


@pytest.fixture
def parts(apart: Mapping[str, Path]) -> dict[str, Path]:
    """What each hospital handed out."""
    return {site: hand_out(root) for site, root in apart.items()}


def join(parts: Mapping[str, Path], root: Path) -> JoinResult:
    return join_roots([str(part) for part in parts.values()], str(root))


def give_back(apart: Mapping[str, Path], root: Path) -> None:
    """Lay each hospital's private folder beside the joint card."""
    for site, own in apart.items():
        shutil.copytree(own / "clients" / site, root / "clients" / site)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_joint_root_is_as_if_imported_in_one_place(
    apart: dict[str, Path], parts: dict[str, Path], together: Path, tmp_path: Path
) -> None:
    card = join(parts, tmp_path / "joint").card
    assert not (tmp_path / "joint/clients").exists()
    assert card.clients == ("north", "south")
    assert card.num_examples("") == 2 * PATIENTS
    give_back(apart, tmp_path / "joint")
    joint, one = files_of(tmp_path / "joint"), files_of(together)
    assert joint.pop(JOINED)
    rejected = {name for name in one if name.endswith("rejected.parquet")}
    assert joint == {name: content for name, content in one.items() if name not in rejected}
    assert check_root(Folder.at(tmp_path / "joint")) == []


def first_round(root: Path) -> Params:
    """Return the light model after one federated round in a plain loop."""
    sets = [f"data.root={root}", "data.tasks=[mortality]", "federation.execution=local"]
    recipe = load_recipe("tiny", sets)
    plan = plan_run(recipe)
    torch.manual_seed(recipe.seed)
    light = LightModel(recipe.encoders, plan.card.spec, plan.trained)
    strategy = build_strategy(recipe.federation.strategy)
    setups = make_setups(
        list(plan.tasks_by_client),
        str(root),
        plan.card.spec,
        recipe.encoders,
        plan.tasks_by_client,
        plan.trained,
        recipe.federation,
    )
    with LocalClients(setups, recipe.seed) as clients:
        state = strategy.init(light.params())
        state, report = run_round(strategy, state, clients, 0, federation=recipe.federation)
    assert [client.client_id for client in report.clients] == ["north", "south"]
    return state.params


def test_a_joint_root_trains_to_the_same_bits(
    apart: dict[str, Path], parts: dict[str, Path], together: Path, tmp_path: Path
) -> None:
    join(parts, tmp_path / "joint")
    give_back(apart, tmp_path / "joint")
    one, other = first_round(tmp_path / "joint"), first_round(together)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_parts_give_the_same_root(parts: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "joint"
    assert not join(parts, root).unchanged
    before = files_of(root)
    assert join(dict(reversed(parts.items())), root).unchanged
    assert files_of(root) == before
    lost = next(name for name in before if name.startswith("public/"))
    (root / lost).unlink()
    assert not join(parts, root).unchanged
    assert files_of(root) == before


def test_a_newer_export_takes_the_place_of_the_older(
    apart: dict[str, Path],
    parts: dict[str, Path],
    tmp_path: Path,
) -> None:
    root = tmp_path / "joint"
    before = join(parts, root).card
    give_back(apart, root)
    kept = {"test_share": 0.3, "public_share": 0.0}  # north publishes no training rows any more
    bring_in("north", apart["north"], pulse=100, rule=kept, again=True)
    hand_out(apart["north"])
    after = join(parts, root).card
    assert after.files.keys() < before.files.keys()
    assert sample_files(Folder.at(root), ("public", "test")) == [
        name for name in after.files if not name.startswith("clients/")
    ]
    join(parts, tmp_path / "new")
    assert (tmp_path / "new" / CARD).read_bytes() == (root / CARD).read_bytes()
    # North's private folder is still the old one, until north lays its new one there.
    assert {p.split("/")[1] for p in check_root(Folder.at(root))} == {"north"}


def test_whoever_stops_halfway_leaves_no_card_that_is_wrong(
    apart: dict[str, Path],
    parts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, write = tmp_path / "joint", Folder.write_bytes
    old = join(parts, root).card
    bring_in("north", apart["north"], pulse=100, again=True)
    hand_out(apart["north"])
    new = join(parts, tmp_path / "new").card
    assert old.files.keys() == new.files.keys()
    cards, seen = {"old": old, "new": new, "none": None}, []
    for stop in range(7):  # the mark, a public and a test file, two records, the card; then none
        shutil.rmtree(tmp_path / "stopped", ignore_errors=True)
        shutil.copytree(root, tmp_path / "stopped")
        left = iter(range(stop))

        def stopping(folder: Folder, name: str, data: bytes, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            write(folder, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write_bytes", stopping)
            with suppress(KeyboardInterrupt):
                join(parts, tmp_path / "stopped")
        there = Folder.at(tmp_path / "stopped")
        card = read_card(there) if there.exists(CARD) else None
        seen.append(next(name for name, each in cards.items() if each == card))
        if card:
            assert check_root(there, card=places_here(there, card)[0]) == []
        join(parts, tmp_path / "stopped")
        assert files_of(tmp_path / "stopped") == files_of(tmp_path / "new")
    assert seen == ["old", *["none"] * 5, "new"]


def refused(parts: Mapping[str, Path], root: Path, text: str) -> None:
    before = files_of(root)
    with pytest.raises(DataError, match=text):
        join(parts, root)
    assert files_of(root) == before


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "north"}, r"both have an import named 'north'\..*--name"),
        ({"subjects_of": "north"}, r"both have patient numbers of 'north'\..*--subjects-of"),
        ({"mapping": mapping("north")}, r"both have a client named 'north'\..*--partition site"),
        ({"rule": {**SPLIT, "seed": 1}}, r"seed 1, .*north-card' with seed 0\."),
        (
            {"mapping": mapping("south", series={"vital": {"features": [
                {"name": "hrt", "unit": "1/s", "low": 0.3, "high": 5}]}})},
            r"south-card' does not fit the other parts\. .*'vital' differs",
        ),
    ],
)  # fmt: skip
def test_parts_that_could_not_lie_in_one_root_are_refused(
    tmp_path: Path, fields: dict[str, object], text: str
) -> None:
    bring_in("north", tmp_path / "north")
    pulse = {"pulse": 1} if "1/s" in str(fields) else {}
    bring_in("south", tmp_path / "south", max_rejected=0.99, **pulse, **fields)
    parts = {site: hand_out(tmp_path / site) for site in PULSE}
    refused(parts, tmp_path / "joint", text)


def test_a_subject_whose_rows_two_hospitals_published_is_refused(tmp_path: Path) -> None:
    for site in PULSE:  # the same key and numbering: patient 17 is one person
        bring_in(site, tmp_path / site, key="same", subjects_of="city")
    parts = {site: hand_out(tmp_path / site) for site in PULSE}
    record = parts["south"] / "imports/south/import.json"
    record.write_text(record.read_text().replace('"city"', '"town"'))
    refused(parts, tmp_path / "joint", r"south-card/\w+/.*has a subject that .*north-card/\w+/")


def damage(part: Path, kind: str) -> None:
    file = next((part / "public").rglob("*.parquet"))
    card, record = part / CARD, part / "imports/south/import.json"
    if kind == "missing":
        file.unlink()
    elif kind == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif kind == "no card":
        card.unlink()
    elif kind == "no records":
        record.unlink()
    elif kind == "another record":
        record.write_text(record.read_text().replace('"mortality": ', '"mortality": 1'))
    else:
        card.write_text(card.read_text().replace("public/mortality", "public/../.."))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", r"south-card/public/.* is missing\..*Ask the hospital"),
        ("altered", r"south-card/public/.* is altered\."),
        ("no card", r"There is no dataset\.json at .*south-card'\."),
        ("no records", r"south-card' has no imports/<name>/import\.json\."),
        ("another record", r"south-card' differ in the import 'south'\."),
        ("a way out", r"dataset\.json' names a file 'public/\.\./\.\./train"),
    ],
)
def test_a_part_that_is_not_whole_is_refused(
    parts: dict[str, Path], tmp_path: Path, kind: str, text: str
) -> None:
    damage(parts["south"], kind)
    refused(parts, tmp_path / "joint", text)


def test_a_root_that_was_not_imported_is_refused(
    parts: dict[str, Path], tiny_root: str, tmp_path: Path
) -> None:
    refused({**parts, "tiny": Path(tiny_root)}, tmp_path / "joint", "has no imports/<name>/import")


def test_one_root_alone_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    refused({"north": parts["north"]}, tmp_path / "joint", r"north-card' is one root\.")


def test_a_target_that_holds_something_else_is_refused(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    refused(parts, parts["north"], "is no root that can be joined into")
    refused(parts, tmp_path / "north", "is no root that can be joined into")
    bring_in("west", tmp_path / "west")
    west = hand_out(tmp_path / "west")
    join({**parts, "west": west}, tmp_path / "joint")
    refused(parts, tmp_path / "joint", r"has an import 'west', and no part .* choose another --dst")


def test_an_import_into_a_joint_root_is_sent_elsewhere(
    apart: dict[str, Path],
    parts: dict[str, Path],
    tmp_path: Path,
) -> None:
    join(parts, tmp_path / "joint")
    give_back(apart, tmp_path / "joint")
    with pytest.raises(DataError, match=r"was joined from roots .*fedkim data join"):
        bring_in("west", tmp_path / "joint")


def test_a_joint_root_may_be_a_part_of_a_larger_one(parts: dict[str, Path], tmp_path: Path) -> None:
    bring_in("west", tmp_path / "west")
    west = hand_out(tmp_path / "west")
    join(parts, tmp_path / "joint")
    join({"joint": tmp_path / "joint", "west": west}, tmp_path / "larger")
    join({**parts, "west": west}, tmp_path / "all")
    assert files_of(tmp_path / "larger") == files_of(tmp_path / "all")


PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def lines_of_page() -> list[str]:
    """Return the commands of the page's steps."""
    text = PAGE.read_text()
    steps = text[text.index("**Where that runs.**") : text.index("## Importers")]
    return re.findall(r"^ {7}(\w.*)$", steps.replace("\\\n", " "), re.MULTILINE)


def test_the_page_leads_to_a_joint_root(
    together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for site, pulse in PULSE.items():
        write_table(tmp_path / site, pulse)
        (tmp_path / f"{site}.yaml").write_text(yaml.safe_dump(mapping(site)))
        shutil.copy(together.parent / f"{site}.key", tmp_path)
    import_, tar, *joining = lines_of_page()
    others = [line.replace("north", "south") for line in (import_, tar)]
    for line in (import_, tar, *others, *joining):
        tool, *words = shlex.split(line)
        if tool == "fedkim":
            assert command(*words[1:])[0] == 0
        else:
            subprocess.run([tool, *words], check=True)
    root = Folder.at("root")
    here, away = places_here(root, read_card(root))
    assert here.clients == ("north",)
    assert {name.split("/")[1] for name in away} == {"south"}
    assert check_root(root, card=here) == []


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)
    return result.exit_code, result.stdout


def test_the_command_says_what_was_joined(parts: dict[str, Path], tmp_path: Path) -> None:
    code, told = command("join", *parts.values(), "--dst", tmp_path / "joint")
    assert code == 0
    assert told.startswith(f"north+south at {tmp_path}/joint: ")
    assert "of north, south" in told
    code, told = command("join", *parts.values(), "--dst", tmp_path / "joint", "--json")
    card = json.loads((tmp_path / "joint" / CARD).read_text())
    assert (code, json.loads(told)) == (0, {**card, "unchanged": True})


def test_a_check_of_what_is_here_names_what_is_not(
    apart: dict[str, Path], parts: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "joint"
    card = join(parts, root).card
    away = [name for name in card.files if name.startswith("clients/")]
    assert command("check", root)[0] == 1
    code, told = command("check", root, "--here")
    assert code == 0
    assert f"Not here, and not checked: {len(away)} files of clients/north, clients/south" in told
    code, told = command("check", root, "--here", "--json")
    assert (code, json.loads(told)) == (0, {"problems": [], "not_here": away})
    code, told = command("describe", root, "--json")
    assert (code, json.loads(told)["not_here"]) == (0, away)
    # A folder that is here in part is no folder that is elsewhere.
    shutil.copytree(apart["north"] / "clients/north", root / "clients/north")
    (root / "clients/north/mortality/valid/north-00000.parquet").unlink()
    code, told = command("check", root, "--here")
    assert code == 1
    assert told.startswith("clients/north/mortality/valid/north-00000.parquet: the file is missing")
    assert "files of clients/south" in told
