"""One file a data set. See ``data/importing/contract.py`` for what each of them says."""

import pkgutil
from importlib import import_module

from fedkim_ray.data.importing.contract import Importer
from fedkim_ray.errors import DataError


def importer_names() -> list[str]:
    """Return the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_importer(name: str) -> type[Importer]:
    """Return an importer's class.

    Raises:
        DataError: there is none of that name.
    """
    if name not in importer_names():
        raise DataError(
            f"There is no importer {name!r}.",
            f"The importers are {', '.join(importer_names())}.",
            "For your own files use `manifest`; see docs/data.md.",
        )
    source: type[Importer] = import_module(f"{__name__}.{name}").SOURCE
    return source
