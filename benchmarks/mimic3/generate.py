"""Write gzipped tables in the shape of MIMIC-III, with made-up events, of any number of rows.

SYNTHETIC: random numbers under the real columns and item numbers, to measure the importer with.
A sixth of the events are of items that the importer reads; so are about 15 % of the real ones.

    python -m benchmarks.mimic3.generate DIR --rows 50000000
"""

import argparse
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fedkim_ray.data.mimic3.features import FEATURES

EVENTS_PER_STAY = 5_000
"""As in the real CHARTEVENTS: 330 million rows of 61,532 stays."""
BLOCK_ROWS = 250_000
LEVEL = 1
"""Of compression: the real tables are packed tighter, and take no longer to unpack."""
UNREAD = np.arange(5_000, 5_060)
START = np.datetime64("2101-10-20T19:00:00")
SHARES = {"LABEVENTS": 0.08, "OUTPUTEVENTS": 0.01, "INPUTEVENTS_MV": 0.01, "INPUTEVENTS_CV": 0.05}
"""Rows of a table by those of CHARTEVENTS, about as in the real database."""


def write_download(folder: Path, chart_rows: int, seed: int = 0) -> int:
    """Write all tables and return their rows, CHARTEVENTS having ``chart_rows``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    num_stays = max(chart_rows // EVENTS_PER_STAY, 20)
    _write_stays(folder, num_stays, rng)
    _write_dictionaries(folder)
    total = _write_events(folder, "CHARTEVENTS", chart_rows, num_stays, rng)
    for name, share in SHARES.items():
        total += _write_events(folder, name, int(chart_rows * share), num_stays, rng)
    return total


def _write_stays(folder: Path, n: int, rng: np.random.Generator) -> None:
    number = np.arange(n)
    hours = rng.integers(26, 200, n)
    end = START + hours * np.timedelta64(3600, "s")
    one = np.ones(n, np.int64)
    keys = {"ROW_ID": number, "SUBJECT_ID": number // 2, "HADM_ID": 100_000 + number}
    dies = (rng.random(n) < 0.12).astype(np.int64)
    kind = np.full(n, "EMERGENCY")
    _write(folder, "ADMISSIONS", {**keys, "ADMISSION_TYPE": kind, "HOSPITAL_EXPIRE_FLAG": dies})
    times = {"INTIME": _times(np.full(n, START)), "OUTTIME": _times(end)}
    _write(folder, "ICUSTAYS", {**keys, "ICUSTAY_ID": 200_000 + number, **times})
    codes = np.where(rng.random(n) < 0.1, "99592", "4019")
    _write(folder, "DIAGNOSES_ICD", {**keys, "SEQ_NUM": one, "ICD9_CODE": codes})


def _write_dictionaries(folder: Path) -> None:
    for name, modalities in {
        "D_LABITEMS": ("lab",),
        "D_ITEMS": ("vital", "input", "output"),
    }.items():
        items = [i for modality in modalities for f in FEATURES[modality] for i in f.items]
        _write(folder, name, {"ITEMID": np.array(items), "LABEL": np.full(len(items), "item")})


def _write_events(
    folder: Path, name: str, num_rows: int, num_stays: int, rng: np.random.Generator
) -> int:
    """Write a table block by block; blocks of gzip one after another are one gzip file."""
    with (folder / f"{name}.csv.gz").open("wb") as file:
        for start in range(0, num_rows, BLOCK_ROWS):
            n = min(BLOCK_ROWS, num_rows - start)
            file.write(_packed(_block(name, start, n, num_stays, rng), header=start == 0))
    return num_rows


def _block(
    name: str, start: int, n: int, num_stays: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    modality = {"CHARTEVENTS": "vital", "LABEVENTS": "lab", "OUTPUTEVENTS": "output"}
    features = FEATURES[modality.get(name, "input")]
    feature = rng.integers(0, len(features), n)
    low, high = np.array([(f.low, f.high) for f in features])[feature].T
    value = np.round(low + (high - low) * rng.random(n), 2)
    first = np.array([f.items[0] for f in features])[feature]
    item = np.where(rng.random(n) < 1 / 6, first, rng.choice(UNREAD, n))
    stay = rng.integers(0, num_stays, n)
    times = START + rng.integers(0, 100 * 60, n) * np.timedelta64(60, "s")
    keys = {
        "ROW_ID": start + np.arange(n),
        "SUBJECT_ID": stay // 2,
        "HADM_ID": 100_000 + stay,
        "ICUSTAY_ID": 200_000 + stay,
        "ITEMID": item,
    }
    unit = np.array([f.unit for f in features])[feature]
    return keys | _rest(name, times, value, unit)


def _rest(
    name: str, times: np.ndarray, value: np.ndarray, unit: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns that differ between tables."""
    nothing = np.full(len(value), "")
    if name == "INPUTEVENTS_MV":
        spans = {"STARTTIME": _times(times), "ENDTIME": _times(times + np.timedelta64(5400, "s"))}
        state = np.full(len(value), "FinishedRunning")
        rates = {"AMOUNT": value, "AMOUNTUOM": np.full(len(value), "ml")}
        return {**spans, **rates, "RATE": value, "RATEUOM": unit, "STATUSDESCRIPTION": state}
    chart = {"CHARTTIME": _times(times), "STORETIME": _times(times)}
    if name == "INPUTEVENTS_CV":
        amount = {"AMOUNT": value, "AMOUNTUOM": np.full(len(value), "ml")}
        return {**chart, **amount, "RATE": value, "RATEUOM": unit}
    values = {"VALUE": value, "VALUENUM": value, "VALUEUOM": unit}
    flaw = {"ISERROR" if name == "OUTPUTEVENTS" else "ERROR": nothing}
    return {**chart, "CGID": np.full(len(value), 17525), **values, **flaw}


def _times(times: np.ndarray) -> pa.Array:
    return pa.array(times.astype("datetime64[s]")).cast(pa.string())


def _packed(columns: dict[str, np.ndarray], header: bool) -> bytes:
    sink = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=header)
    pyarrow.csv.write_csv(pa.table(columns), sink, options)
    return gzip.compress(sink.getvalue(), LEVEL)


def _write(folder: Path, name: str, columns: dict[str, np.ndarray]) -> None:
    (folder / f"{name}.csv.gz").write_bytes(_packed(columns, header=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of CHARTEVENTS")
    chosen = parser.parse_args(arguments)
    print(f"{write_download(chosen.folder, chosen.rows)} rows at {chosen.folder}")


if __name__ == "__main__":
    main()
