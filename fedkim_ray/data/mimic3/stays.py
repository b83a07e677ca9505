"""Who is asked about: the first stay in intensive care of every admission, newborns left out."""

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
SECONDS = 3600


def find_stays(files: SourceFiles) -> pa.Table:
    """Return SUBJECT_ID, HADM_ID, start (s since 1970), hours, died and sepsis, by HADM_ID.

    Stays without an end are left out too. ``hours`` are whole.
    """
    admissions = _whole(files, "ADMISSIONS.csv.gz", ADMISSIONS)
    admissions = admissions.filter(pc.not_equal(admissions["ADMISSION_TYPE"], "NEWBORN"))
    stays = _whole(files, "ICUSTAYS.csv.gz", ICUSTAYS)
    stays = stays.filter(pc.is_valid(stays["OUTTIME"]))
    stays = stays.sort_by([("HADM_ID", "ascending"), ("INTIME", "ascending")])
    _, first = np.unique(stays["HADM_ID"].to_numpy(), return_index=True)
    stays = stays.take(first).join(admissions, "HADM_ID", join_type="inner").sort_by("HADM_ID")
    start, stop = (_seconds(stays[column]) for column in ("INTIME", "OUTTIME"))
    died = pc.equal(stays["HOSPITAL_EXPIRE_FLAG"], 1)
    return pa.table(
        {
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


def write_stays(stays: pa.Table, scratch: Path) -> None:
    """Keep the stays for the workers."""
    pq.write_table(stays, scratch / "stays.parquet")


def read_stays(scratch: Path) -> pa.Table:
    """Return what ``write_stays`` kept."""
    return pq.read_table(scratch / "stays.parquet")
