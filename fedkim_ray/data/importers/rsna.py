"""RSNA Pneumonia Detection Challenge 2018: does a chest X-ray show lung opacity?

The class table has one row a box, so an image with two boxes is there twice: it counts once. Class
"Lung Opacity" is yes, "Normal" is no; "No Lung Opacity / Not Normal" is neither and left out. The
challenge's ``patientId`` names an image. The images are a part of NIH ChestX-ray14, where a person
may have several: if RSNA's mapping file to it lies in the source too, the split is by the person,
else by ``patientId``.

Written from the published layout, not run on the owner's files but for the table of the images'
names, which package torchxrayvision carries.

Source: Shih et al. 2019, https://doi.org/10.1148/ryai.2019180041; files as in
https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data and, for the mapping,
https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fedkim_ray.data.importing.contract import Expected, Importer, Item, LeftOut, Row, SplitDefaults
from fedkim_ray.data.importing.published import ImageOptions, json_list, text_table
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.reasons import column_at_fault, rejected
from fedkim_ray.data.schema import DataSpec, ImageSpec
from fedkim_ray.types import TaskId

TABLE = "stage_2_detailed_class_info.csv"
COLUMNS = ("patientId", "class")
IMAGES = "stage_2_train_images"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
LABELS = {"Lung Opacity": 1, "Normal": 0}
NEITHER = "No Lung Opacity / Not Normal"


class Rsna(Importer):
    """One DICOM image a patient, for ``lung_opacity``."""

    name = "rsna"
    title = "RSNA Pneumonia Detection Challenge"
    licence = "RSNA's terms of use: research and education, with attribution"
    reference = "Shih et al. 2019, Radiology: Artificial Intelligence 1(1):e180041"
    tasks: ClassVar[tuple[TaskId, ...]] = ("lung_opacity",)
    ids_are_public = True
    split_defaults = SplitDefaults()
    Options = ImageOptions
    options: ImageOptions

    def layout(self) -> Sequence[Expected]:
        """Return the class table, the images and the mapping, which may be absent."""
        return [
            Expected(pattern=TABLE, columns=COLUMNS),
            Expected(pattern=f"{IMAGES}/*.dcm"),
            Expected(pattern=MAPPING, columns=("subset_img_id", "img_id"), at_least=0),
        ]

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return image, class and person, once an image; classes that differ join to an unknown."""
        table = text_table(self.files, TABLE, COLUMNS)
        classes: dict[str, list[str]] = {}
        for row in table.to_pylist():
            known = classes.setdefault(row["patientId"], [])
            if row["class"] not in known:
                known.append(row["class"])
        people = self._people()
        return [(image, " and ".join(c), people.get(image, image)) for image, c in classes.items()]

    def rows(self, item: Item) -> Iterator[Row | LeftOut]:
        """Yield the image's one row."""
        assert isinstance(item, tuple)
        image, class_name, person = map(str, item)
        if class_name == NEITHER:
            yield LeftOut(f"class {NEITHER!r}")
            return
        if class_name not in LABELS:
            raise rejected("label_unknown", "class")
        with column_at_fault("patientId"):
            grey = read_image(self.files.read(f"{IMAGES}/{image}.dcm"))
        yield Row(
            sample=image,
            subject=person,
            task="lung_opacity",
            label=LABELS[class_name],
            image=grey,
        )

    def where(self, item: Item) -> str:
        """Return the image's file."""
        assert isinstance(item, tuple)
        return f"{IMAGES}/{item[0]}.dcm"

    def _people(self) -> dict[str, str]:
        """Return the person in NIH's numbering by image; empty without the mapping."""
        if not self.files.exists(MAPPING):
            return {}
        rows = json_list(self.files, MAPPING)
        return {str(r["subset_img_id"]): "nih-" + str(r["img_id"]).split("_")[0] for r in rows}


SOURCE = Rsna
