"""What is asked of an import, made whole with the importer's defaults and held against them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedkim_ray.data.importing.contract import Importer
from fedkim_ray.data.importing.split import SplitRule, parse_partition
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What is to be imported, and how."""

    importer: str
    root: str
    """URL of the data root; other imports may be there already."""
    name: str | None = None
    """Of this import in the root; the importer's own where None."""
    subjects_of: str | None = None
    """Name of the numbering of subjects; the importer's own where None."""
    source: str | None = None
    """URL of the source; None takes the importer's own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    partition: str | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of ``SplitRule``; the importer's defaults where absent."""
    key_path: Path | None = None
    max_rejected: float = 0.01
    """Largest share of examples that may be rejected."""
    reword: bool = False
    """Deal out the tasks' rewordings instead of asking all examples the same question."""
    again: bool = False
    """Import even what seems to be there, as files that a table names may change under it, or in
    place of other data of the same name."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)


def parse_options(kind: type[Importer], options: Mapping[str, Any]) -> Frozen:
    """Return an importer's options.

    Raises:
        DataError: one is unknown or impossible.
    """
    try:
        return kind.Options.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(
            f"The options of {kind.name} cannot be used: {problems}.",
            f"Its options are {', '.join(kind.Options.model_fields) or 'none'}.",
            "They are given as -o name=value, or as --mapping FILE for `manifest`.",
        ) from None


def split_rule(kind: type[Importer], request: ImportRequest) -> SplitRule:
    """Return the importer's split with what the request overrides.

    Raises:
        DataError: a share is out of range, or the shares leave nothing private.
    """
    defaults = kind.split_defaults.model_dump()
    usual = defaults.pop("partition")
    partition = parse_partition(request.partition or usual)
    values = {**defaults, **partition, **request.rule}
    try:
        return SplitRule.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"The split cannot be used: {'.'.join(map(str, first['loc'])) or 'shares'}: "
            f"{first['msg']} (came {first['input']!r}).",
            "Shares lie in [0, 1), and something is left for the clients.",
            "Correct the option.",
        ) from None


def import_name(importer: Importer, request: ImportRequest) -> str:
    """Return what an import is called in its data root.

    Raises:
        DataError: it cannot be the name of a file.
    """
    return _plain("--name", request.name or importer.import_name)


def numbering(kind: type[Importer], request: ImportRequest) -> str:
    """Return the name of the source's numbering of subjects.

    Raises:
        DataError: it has other characters than a plain name.
    """
    return _plain("--subjects-of", request.subjects_of or kind.subjects_of or kind.name)


def _plain(option: str, name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise DataError(
            f"{name!r} is no name.",
            "It has small letters, digits, '-' and '_' alone, and starts with a letter or digit.",
            f"Correct {option}.",
        )
    return name


def source_url(kind: type[Importer], request: ImportRequest) -> str:
    """Return where the source is.

    Raises:
        DataError: the request does not say, and the importer has none of its own.
    """
    source = request.source or kind.default_source()
    if source is None:
        raise DataError(
            f"{kind.name} has no source of its own.",
            f"--src names the folder with the files of {kind.title}.",
            "See docs/data.md for where its owner ships it.",
        )
    return Folder.at(source).url
