"""What importers of published data sets share: small tables as text, and the images' size."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import PositiveInt

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.manifest.tables import LINE, present, text_batches
from fedkim_ray.errors import DataError
from fedkim_ray.types import Frozen


class ImageOptions(Frozen):
    """Values of ``-o`` that all importers of images have."""

    size_px: PositiveInt = 224
    """Side of the square that images are scaled to; 14 x 14 patches of 16 pixels."""


def text_table(files: SourceFiles, name: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a table of at most a few hundred thousand rows, as text.

    Raises:
        DataError: the table lacks a column or cannot be read.
    """
    return pa.concat_tables(list(text_batches(files, name, columns))).combine_chunks()


def cells_at(table: pa.Table, index: int) -> dict[str, str]:
    """Return a row's cells without blanks around them; empty where nothing is written."""
    (row,) = table.slice(index, 1).drop_columns([LINE]).to_pylist()
    return {column: present(value) for column, value in row.items()}


def json_list(files: SourceFiles, name: str) -> list[dict[str, Any]]:
    """Return a JSON file that holds a list of objects.

    Raises:
        DataError: it is none.
    """
    try:
        with files.open(name) as raw:
            value = json.load(raw)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DataError(
            f"{name!r} is not read.",
            "It is a JSON list of objects, in UTF-8.",
            "Download the file again.",
        )
    return value


def text_at(row: Mapping[str, Any], key: str) -> str:
    """Return a value of a JSON object as text without blanks around it; empty where it is none."""
    value = row.get(key)
    return "" if value is None else str(value).strip()
