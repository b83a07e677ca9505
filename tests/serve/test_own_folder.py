"""Scratch folders: a killed process's goes with the next start, a living one's stays."""

import subprocess
import sys
from pathlib import Path

from serve.own_folder import OwnFolder

OWNER = """
import sys, time
from pathlib import Path
from serve.own_folder import OwnFolder
folder = OwnFolder("kept-", Path(sys.argv[1]))
(folder.path / "adapter").write_text("weights")
print(folder.path, flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_its_folder_to_the_next_start(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        left = Path(owner.stdout.readline().strip())
        beside = OwnFolder("kept-", tmp_path)
        assert (left / "adapter").exists(), "its process lives"
        owner.kill()
        owner.wait()
        assert (left / "adapter").exists(), "nobody could clear up"
    after = OwnFolder("kept-", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([beside.path, after.path])
    beside.close()
    after.close()
    after.close()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other-1").mkdir()
    folder = OwnFolder("kept-", tmp_path)
    assert (tmp_path / "other-1").is_dir()
    folder.close()
