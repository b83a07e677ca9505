"""Opening a run whose files somebody altered."""

from pathlib import Path

import pytest

from fedkim_ray.errors import FedKimError, StorageError
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{}", r"run\.json' cannot be used: format_version: Field required"),
        ("run.json", "[]", r"run\.json' cannot be used: the whole: .* with format_version, run_id"),
        ("recipe.yaml", "a: [b", r"recipe\.yaml' is not YAML: .* Restore it"),
        ("recipe.yaml", "\0\0", r"recipe\.yaml' is not YAML: .* Restore it"),
        ("recipe.yaml", "[]", r"recipe\.yaml' cannot be used: recipe"),
    ],
)
def test_an_altered_file_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    RunFolder.create(str(tmp_path), load_recipe("tiny"))
    (tmp_path / name).write_text(content)
    with pytest.raises(FedKimError, match=said):
        RunFolder.open(str(tmp_path))


def test_a_folder_in_a_files_place_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StorageError, match=r"There is no file .*run\.json"):
        RunFolder.open(str(tmp_path))
