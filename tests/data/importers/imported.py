"""Run an importer, and look at what it left."""

from pathlib import Path

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import ImportResult, run_import
from fedkim_ray.data.loading import Example, load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.storage import Folder

KEY = "a1" * 32


def bring_in(name: str, source: Path | str, root: Path, **fields: object) -> ImportResult:
    """Import with one worker and a key beside the root; the root is checked whole."""
    values = {"importer": name, "source": str(source), "root": str(root), "workers": 1}
    values["key_path"] = root.parent / "key"
    # A fixed key: with another for each run, few subjects may now and then all fall into one place.
    (root.parent / "key").write_text(KEY)
    result = run_import(ImportRequest(**{**values, **fields}))  # type: ignore[arg-type]
    assert check_root(Folder.at(root)) == []
    return result


def examples_of(root: Path, task: str, place: str = "") -> list[Example]:
    """All examples of a task, in test, public and all clients; or in one place."""
    folder = Folder.at(root)
    card = read_card(folder)
    named = {n.rsplit("/", 1)[0] for n in card.files if f"/{task}" in n and n.startswith(place)}
    return [e for name in sorted(named) for e in load_samples(folder / name, card.spec)]


def bytes_of(root: Path) -> bytes:
    """Everything that an import wrote, end to end."""
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())
