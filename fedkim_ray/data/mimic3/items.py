"""Hold the dictionaries of items against the numbers that this release reads."""

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.mimic3.csv_stream import csv_batches
from fedkim_ray.data.mimic3.features import FEATURES
from fedkim_ray.errors import DataError

DICTIONARIES = {"D_LABITEMS": ("lab",), "D_ITEMS": ("vital", "input", "output")}


def require_items(files: SourceFiles) -> None:
    """Refuse a source whose dictionaries know none of a feature's items.

    Raises:
        DataError: naming the features: it is no MIMIC-III, or numbers were changed.
    """
    for dictionary, modalities in DICTIONARIES.items():
        known: set[int] = set()
        for batch in csv_batches(files, f"{dictionary}.csv.gz", ("ITEMID",)):
            known.update(batch["ITEMID"].to_pylist())
        features = [f for modality in modalities for f in FEATURES[modality]]
        if lacking := [f.name for f in features if not known.intersection(f.items)]:
            raise DataError(
                f"{dictionary}.csv.gz has no item of {', '.join(lacking)}.",
                "It lists the items of MIMIC-III 1.4, by which events are known.",
                "Check that it is MIMIC-III and not MIMIC-IV, and that the file is whole.",
            )
