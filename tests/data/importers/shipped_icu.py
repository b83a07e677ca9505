"""A small download of MIMIC-III, in the layout in which PhysioNet ships it."""

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedkim_ray.data.mimic3.features import FEATURES

HEADERS: Mapping[str, str] = {
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,"
    "ADMISSION_LOCATION,DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,"
    "EDREGTIME,EDOUTTIME,DIAGNOSIS,HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA",
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,LAST_CAREUNIT,"
    "FIRST_WARDID,LAST_WARDID,INTIME,OUTTIME,LOS",
    "DIAGNOSES_ICD": "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE",
    "CHARTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,STORETIME,CGID,VALUE,"
    "VALUENUM,VALUEUOM,WARNING,ERROR,RESULTSTATUS,STOPPED",
    "LABEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM,FLAG",
    "INPUTEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,AMOUNT,"
    "AMOUNTUOM,RATE,RATEUOM,STORETIME,CGID,ORDERID,LINKORDERID,ORDERCATEGORYNAME,"
    "SECONDARYORDERCATEGORYNAME,ORDERCOMPONENTTYPEDESCRIPTION,ORDERCATEGORYDESCRIPTION,"
    "PATIENTWEIGHT,TOTALAMOUNT,TOTALAMOUNTUOM,ISOPENBAG,CONTINUEINNEXTDEPT,CANCELREASON,"
    "STATUSDESCRIPTION,COMMENTS_EDITEDBY,COMMENTS_CANCELEDBY,COMMENTS_DATE,ORIGINALAMOUNT,"
    "ORIGINALRATE",
    "INPUTEVENTS_CV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,AMOUNTUOM,RATE,"
    "RATEUOM,STORETIME,CGID,ORDERID,LINKORDERID,STOPPED,NEWBOTTLE,ORIGINALAMOUNT,"
    "ORIGINALAMOUNTUOM,ORIGINALROUTE,ORIGINALRATE,ORIGINALRATEUOM,ORIGINALSITE",
    "OUTPUTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,VALUE,VALUEUOM,"
    "STORETIME,CGID,STOPPED,NEWBOTTLE,ISERROR",
    "D_ITEMS": "ROW_ID,ITEMID,LABEL,ABBREVIATION,DBSOURCE,LINKSTO,CATEGORY,UNITNAME,PARAM_TYPE,"
    "CONCEPTID",
    "D_LABITEMS": "ROW_ID,ITEMID,LABEL,FLUID,CATEGORY,LOINC_CODE",
}
Tables = dict[str, list[Mapping[str, object]]]


def at(hours: float) -> str:
    """A time so many hours after every stay's start."""
    minutes = round(hours * 60)
    day, minute = divmod(minutes, 24 * 60)
    return f"2101-10-{20 + day:02d} {minute // 60:02d}:{minute % 60:02d}:00"


def empty_tables() -> Tables:
    """All tables, with the dictionaries' items."""
    tables: Tables = {name: [] for name in HEADERS}
    for modality, features in FEATURES.items():
        name = "D_LABITEMS" if modality == "lab" else "D_ITEMS"
        tables[name] += [{"ITEMID": i, "LABEL": f.name} for f in features for i in f.items]
    return tables


def add_stay(
    tables: Tables, number: int, hours: float = 200, died: int = 0, codes: Sequence[str] = ()
) -> int:
    """Add patient ``number`` with one admission and one stay; return its HADM_ID."""
    admission = 100_000 + number
    person = {"SUBJECT_ID": number, "HADM_ID": admission}
    tables["ADMISSIONS"].append(
        {**person, "ADMISSION_TYPE": "EMERGENCY", "HOSPITAL_EXPIRE_FLAG": died, "DIAGNOSIS": "A, B"}
    )
    stay = {"ICUSTAY_ID": 200_000 + number, "INTIME": at(0), "OUTTIME": at(hours)}
    tables["ICUSTAYS"].append({**person, **stay, "DBSOURCE": "metavision"})
    tables["DIAGNOSES_ICD"] += [{**person, "ICD9_CODE": code} for code in codes]
    return admission


def write_mimic3(folder: Path, tables: Tables) -> None:
    """Write every table as gzipped CSV, columns that a row lacks empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, header in HEADERS.items():
        with gzip.open(folder / f"{name}.csv.gz", "wt", newline="", compresslevel=1) as file:
            writer = csv.DictWriter(file, header.split(","), restval="")
            writer.writeheader()
            writer.writerows(tables[name])
