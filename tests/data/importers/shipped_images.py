"""Small downloads of the published image sets, in the layout in which their owners ship them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

SIDE = 24


def grey(number: int, side: int = SIDE) -> np.ndarray:
    """An image of its own for every number; images of one number are alike at any size."""
    noise = np.random.default_rng(number).integers(0, 256, (9, 9), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def write_image(path: Path, number: int, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(number, side)).save(path)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


CHEXPERT_HEADER = [
    "Path", "Sex", "Age", "Frontal/Lateral",
    "AP/PA", "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly",
    "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
]  # fmt: skip


def write_chexpert(folder: Path, findings: Sequence[Sequence[str]], table: str = "valid") -> None:
    """Write an image a row of (enlarged cardiomediastinum, atelectasis, pleural effusion).

    Two rows a patient; the second is a lateral view.
    """
    rows = []
    for index, (wide, collapsed, fluid) in enumerate(findings):
        view = "view2_lateral" if index % 2 else "view1_frontal"
        image = f"{table}/patient{64541 + index // 2}/study1/{view}.jpg"
        write_image(folder / image, index)
        row = dict.fromkeys(CHEXPERT_HEADER, "0.0")
        row |= {"Path": f"CheXpert-v1.0-small/{image}", "Sex": "Male", "Age": "73", "AP/PA": "AP"}
        row |= {"Frontal/Lateral": "Lateral" if index % 2 else "Frontal"}
        row |= {"Enlarged Cardiomediastinum": wide, "Atelectasis": collapsed}
        rows.append(list((row | {"Pleural Effusion": fluid}).values()))
    write_table(folder / f"{table}.csv", CHEXPERT_HEADER, rows)


def write_rsna(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write the class table and one DICOM file for every patient in it."""
    write_table(folder / "stage_2_detailed_class_info.csv", ("patientId", "class"), rows)
    for number, patient in enumerate(dict(rows)):
        write_dicom(folder / f"stage_2_train_images/{patient}.dcm", patient, grey(number))


def write_dicom(path: Path, patient: str, pixels: np.ndarray) -> None:
    """Write a chest radiograph as RSNA's are: MONOCHROME2, 8 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientID, dataset.PatientName = patient, patient
    dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_covid(folder: Path, num_ill: int, num_normal: int) -> None:
    for number in range(num_ill):
        write_image(folder / f"COVID/images/COVID-{number + 1}.png", number)
    for number in range(num_normal):
        write_image(folder / f"Normal/images/Normal-{number + 1}.png", 10_000 + number)


def write_vqa_rad(folder: Path, questions: Sequence[tuple[str, str, str, str]]) -> None:
    """Write questions as (image, linked id, phrase type, answer)."""
    rows = [
        {
            "qid": str(number),
            "phrase_type": phrase,
            "qid_linked_id": linked,
            "image_case_url": "https://medpix.nlm.nih.gov/case?id=1",
            "image_name": image,
            "image_organ": "CHEST",
            "evaluation": "not evaluated",
            "question": f"Question {number}?",
            "question_rephrase": "NULL",
            "question_relation": "NULL",
            "question_frame": "NULL",
            "question_type": "PRES",
            "answer": answer,
            "answer_type": "OPEN",
        }
        for number, (image, linked, phrase, answer) in enumerate(questions)
    ]
    for number, image in enumerate(sorted({row["image_name"] for row in rows})):
        write_image(folder / "images" / image, number)
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))


def write_slake(folder: Path, num_images: int) -> None:
    """Write two questions an image, one of them Chinese; every fourth image is a test image."""
    splits: dict[str, list[dict[str, object]]] = {"train": [], "validate": [], "test": []}
    for number in range(num_images):
        write_image(folder / f"Slake1.0/imgs/xmlab{number}/source.jpg", number)
        split = ("train", "validate", "train", "test")[number % 4]
        for language in ("en", "zh"):
            splits[split].append(_slake_question(number, language, len(splits[split])))
    for split, rows in splits.items():
        text = json.dumps(rows, ensure_ascii=False)
        (folder / f"Slake1.0/{split}.json").write_text(text, encoding="utf-8")


def _slake_question(image: int, language: str, number: int) -> dict[str, object]:
    english = language == "en"
    return {
        "img_id": image,
        "img_name": f"xmlab{image}/source.jpg",
        "question": "What modality is used?" if english else "这张图片是什么模态?",
        "answer": f"Answer {image}" if english else "X光",
        "q_lang": language,
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "content_type": "Modality",
        "triple": ["vhead", "_", "_"],
        "qid": number,
    }
