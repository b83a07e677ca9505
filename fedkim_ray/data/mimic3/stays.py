"""Who is asked about: the first stay in intensive care of every admission, newborns left out."""

import json
from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.mimic3.csv_stream import csv_batches

ADMISSIONS = ("HADM_ID", "ADMISSION_TYPE", "HOSPITAL_EXPIRE_FLAG")
ICUSTAYS = ("SUBJECT_ID", "HADM_ID", "ICUSTAY_ID", "INTIME", "OUTTIME")
DIAGNOSES = ("HADM_ID", "ICD9_CODE")
SEPSIS_CODES = ("99591", "99592", "78552")
"""ICD-9: sepsis, severe sepsis, septic shock."""
NO_TIME = "stay without admission, beginning or end"
LATER = "later stay of an admission"
NOT_ADULT = "stay of a newborn or of no known admission"
SECONDS = 3600


def find_stays(files: SourceFiles) -> tuple[pa.Table, dict[str, int]]:
    """Find the stays.

    Returns:
        Row of ICUSTAYS, SUBJECT_ID, HADM_ID, start (s since 1970), whole hours, died and sepsis, by
        HADM_ID; and how many stays are left out, by reason.
    """
    admissions = _whole(files, "ADMISSIONS.csv.gz", ADMISSIONS)
    adults = admissions.filter(pc.not_equal(admissions["ADMISSION_TYPE"], "NEWBORN"))
    stays = _whole(files, "ICUSTAYS.csv.gz", ICUSTAYS)
    steps = {"": stays.append_column("row", pa.array(range(1, stays.num_rows + 1), pa.int64()))}
    steps[NO_TIME] = _with_times(steps[""])
    steps[LATER] = _first_of_admission(steps[NO_TIME])
    steps[NOT_ADULT] = steps[LATER].join(adults, "HADM_ID", join_type="inner").sort_by("HADM_ID")
    sizes = [step.num_rows for step in steps.values()]
    lost = (before - after for before, after in pairwise(sizes))
    return _described(steps[NOT_ADULT], files), dict(zip([*steps][1:], lost, strict=True))


def _with_times(stays: pa.Table) -> pa.Table:
    times = [pc.is_valid(stays[column]) for column in ("HADM_ID", "INTIME", "OUTTIME")]
    return stays.filter(reduce(pc.and_, times))


def _first_of_admission(stays: pa.Table) -> pa.Table:
    stays = stays.sort_by([("HADM_ID", "ascending"), ("INTIME", "ascending")])
    _, first = np.unique(stays["HADM_ID"].to_numpy(), return_index=True)
    return stays.take(first)


def _described(stays: pa.Table, files: SourceFiles) -> pa.Table:
    start, stop = (_seconds(stays[column]) for column in ("INTIME", "OUTTIME"))
    died = pc.equal(stays["HOSPITAL_EXPIRE_FLAG"], 1)
    return pa.table(
        {
            "row": stays["row"],
            "SUBJECT_ID": stays["SUBJECT_ID"],
            "HADM_ID": stays["HADM_ID"],
            "start": start,
            "hours": np.maximum(stop - start, 0) // SECONDS,
            "died": died,
            "sepsis": pc.is_in(stays["HADM_ID"], _septic(files)),
        }
    ).combine_chunks()


def _septic(files: SourceFiles) -> pa.Array:
    codes = _whole(files, "DIAGNOSES_ICD.csv.gz", DIAGNOSES)
    septic = codes.filter(pc.is_in(codes["ICD9_CODE"], pa.array(SEPSIS_CODES)))
    return septic["HADM_ID"].combine_chunks()


def _whole(files: SourceFiles, name: str, columns: tuple[str, ...]) -> pa.Table:
    return pa.concat_tables(list(csv_batches(files, name, columns))).combine_chunks()


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    seconds: np.ndarray = pc.cast(column, pa.int64()).to_numpy()
    return seconds


def write_stays(stays: pa.Table, left_out: Mapping[str, int], scratch: Path) -> None:
    """Keep the stays, and how many were left out, for the workers; the stays last."""
    (scratch / "left_out.json").write_text(json.dumps(left_out))
    pq.write_table(stays, scratch / "stays.parquet")


def read_left_out(scratch: Path) -> dict[str, int]:
    """Return how many stays were left out, by reason."""
    counts: dict[str, int] = json.loads((scratch / "left_out.json").read_text())
    return counts


def read_stays(scratch: Path) -> pa.Table:
    """Return what ``write_stays`` kept."""
    return pq.read_table(scratch / "stays.parquet")
