"""Updates on disk: equal, lazy, and gone with their folder."""

import errno
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.federation.spill import Spill, TensorsOnDisk
from fedkim_ray.federation.update import ClientUpdate, validate_update

UPDATE = ClientUpdate(
    client_id="north",
    round_index=3,
    delta={
        "encoders.image.w": torch.arange(6.0).reshape(2, 3).T,
        "encoders.image.b": torch.ones(1),
    },
    num_examples={"encoders.image": 7},
    metrics={"train/loss": 0.1},
)


def test_an_update_comes_back_equal_until_the_spill_is_closed() -> None:
    spill = Spill()
    on_disk = spill.write(UPDATE)
    assert isinstance(on_disk.delta, TensorsOnDisk)
    torch.testing.assert_close(dict(on_disk.delta), UPDATE.delta)
    validate_update(on_disk, UPDATE.delta)
    assert on_disk.metrics == UPDATE.metrics
    spill.close()
    with pytest.raises(FileNotFoundError):
        on_disk.delta["encoders.image.b"]


def test_a_name_that_is_not_there_is_no_tensor() -> None:
    spill = Spill()
    with pytest.raises(KeyError):
        spill.write(UPDATE).delta["encoders.lab.w"]
    spill.close()


def test_a_full_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    spill = Spill()
    with pytest.raises(EnvironmentProblemError, match=r"No space left on device.*TMPDIR"):
        spill.write(UPDATE)
    spill.close()


def test_a_folder_that_cannot_be_made_is_the_same_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(EnvironmentProblemError, match=r"'north' could not be written.*TMPDIR"):
        Spill().write(UPDATE)
