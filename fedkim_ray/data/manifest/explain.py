"""The commented example of a mapping, and reading a mapping from its file."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedkim_ray.data.manifest.mapping import TableMapping
from fedkim_ray.errors import DataError


def example_mapping() -> str:
    """Return a whole mapping as commented YAML."""
    return (resources.files(__package__) / "example.yaml").read_text()


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping's file and return its plain values.

    Raises:
        DataError: there is no file, it is no YAML, or a field is unknown, missing or impossible.
    """
    remedy = "`fedkim data import manifest --explain` prints a commented example."
    try:
        values = yaml.safe_load(path.read_text())
    except OSError:
        raise DataError(
            f"There is no mapping {str(path)!r}.", "--mapping names a YAML file.", remedy
        ) from None
    except yaml.YAMLError as error:
        raise DataError(
            f"{str(path)!r} is not YAML: {str(error).replace(chr(10), ' ')}.",
            "A mapping is YAML.",
            remedy,
        ) from None
    try:
        mapping = TableMapping.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'mapping'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise DataError(
            f"{str(path)!r} cannot be used: {problems}.",
            "A mapping names the table's columns by what they mean.",
            remedy,
        ) from None
    return mapping.model_dump(mode="json")
