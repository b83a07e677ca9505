"""Updates on the server's local disk, read back tensor by tensor.

The server holds a few updates in memory; those that must wait for their turn, or for all others,
wait here.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.federation.update import ClientUpdate


class Spill:
    """A folder of updates that lives as long as this object; it is made when it is needed."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._num_files = 0

    def write(self, update: ClientUpdate) -> ClientUpdate:
        """Return the same update with its tensors on disk.

        Raises:
            EnvironmentProblemError: the disk is full or cannot be written.
        """
        whole = {name: value.contiguous() for name, value in update.delta.items()}
        try:
            path = self._new_file()
            safetensors.torch.save_file(whole, path)
        except (OSError, SafetensorError) as error:
            raise EnvironmentProblemError(
                f"The update of client {update.client_id!r} could not be written to disk: {error}.",
                "Updates that wait for their turn lie on the driver's local disk.",
                "Free space there, or point TMPDIR to a larger disk, and resume the run.",
            ) from None
        return replace(update, delta=TensorsOnDisk(path, tuple(whole)))

    def _new_file(self) -> Path:
        """Return a path in the folder, which is made for the first."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fedkim-spill-")
        self._num_files += 1
        return Path(self._folder.name) / f"{self._num_files:06d}.safetensors"

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class TensorsOnDisk(Mapping[str, Tensor]):
    """The tensors of one safetensors file; each access reads one."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self._path = path
        self._names = names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
