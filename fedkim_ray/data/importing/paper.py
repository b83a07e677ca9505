"""``fedkim data import paper``: every data set of the method's evaluation that a folder holds.

The folder has a folder for each importer, named as the importer: ``DIR/rsna``, ``DIR/ptbxl`` and so
on. ECG-QA reads PTB-XL's records: its questions lie in ``DIR/ecg_qa/ecgqa``, and where PTB-XL is
not inside as well, the one in ``DIR/ptbxl`` is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkim_ray.data.importers import find_importer
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.layout import check_layout
from fedkim_ray.data.importing.ptbxl_table import TABLE
from fedkim_ray.data.importing.request import parse_options
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

NAME = "paper"
IMPORTERS = (
    "rsna", "covid_radiography", "ptbxl", "mimic3", "chexpert", "ecg_qa", "vqa_rad", "slake",
)  # fmt: skip
"""In this order, PTB-XL before ECG-QA: together all twelve tasks."""
CLIENTS = 5


@dataclass(frozen=True, slots=True)
class Download:
    """One data set of the folder."""

    importer: str
    source: str
    options: Mapping[str, Any]
    problems: list[str]
    """What it lacks; empty if it can be imported."""


def find_downloads(url: str, options: Mapping[str, Any]) -> list[Download]:
    """Return the data sets whose folder is there, whole or not.

    Args:
        url: The folder, at any fsspec URL.
        options: Given to every importer that has an option of the name.

    Raises:
        DataError: the folder holds none, or no importer knows an option.
    """
    home = Folder.at(url)
    kinds = [find_importer(name) for name in IMPORTERS]
    known = {option for kind in kinds for option in kind.Options.model_fields}
    if unknown := sorted(set(options) - known):
        raise DataError(
            f"No importer of the paper's data has an option {', '.join(unknown)}.",
            f"They have {', '.join(sorted(known))}.",
            "Correct -o.",
        )
    found = [_look(home, name, options) for name in IMPORTERS if (home / name).exists()]
    if not found:
        raise DataError(
            f"{home.url!r} holds none of the paper's data sets.",
            f"Each lies in a folder of its name: {', '.join(IMPORTERS)}.",
            "See docs/importers.md for where its owner ships it.",
        )
    return found


def _look(home: Folder, name: str, given: Mapping[str, Any]) -> Download:
    kind, source = find_importer(name), home / name
    options = {key: value for key, value in given.items() if key in kind.Options.model_fields}
    if name == "ecg_qa" and not source.exists(TABLE):
        source = home
        options = {"questions": "ecg_qa/ecgqa/ptbxl/template", "ptbxl": "ptbxl", **options}
    files = SourceFiles(source)
    layout = kind(files, parse_options(kind, options), Path()).layout()
    return Download(name, source.url, options, check_layout(files, layout))
