"""COVID-19 Radiography Database: 3,616 chest X-rays with COVID-19 and 10,192 normal ones.

Nothing says whose an image is. The database gathers several collections, some of which have the
same images, scaled and stored anew: images whose coarse outline is the same are one group, and a
group is never divided. It is no substitute for patient numbers: two images of one person may fall
into two places, which makes results on them look better than they are. 8,851 of the normal images
come from the RSNA challenge, and nothing says which.

Written from the published layout, not run on the owner's files.

Source: Chowdhury et al. 2020, https://doi.org/10.1109/ACCESS.2020.3010287; Rahman et al. 2021,
https://doi.org/10.1016/j.compbiomed.2021.104319; folders as in
https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from fedkim_ray.data.importing.contract import Expected, Importer, Item, Row
from fedkim_ray.data.importing.published import ImageOptions
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.schema import DataSpec, ImageSpec
from fedkim_ray.types import TaskId

LABELS = {"COVID": 1, "Normal": 0}
OUTLINE_PX = 8
EQUAL = 0.01
"""Difference of grey, of 255, that counts as none: black borders are equally bright."""


class CovidRadiography(Importer):
    """PNG images in two folders, for ``covid19``."""

    name = "covid_radiography"
    title = "COVID-19 Radiography Database"
    licence = "the owners' terms on Kaggle: scientific use, citing both papers"
    reference = "Chowdhury et al. 2020, IEEE Access 8:132665-132676; Rahman et al. 2021"
    tasks: ClassVar[tuple[TaskId, ...]] = ("covid19",)
    ids_are_public = True
    Options = ImageOptions
    options: ImageOptions

    def layout(self) -> Sequence[Expected]:
        """Return the two folders of images."""
        return [Expected(pattern=f"{folder}/images/*.png") for folder in LABELS]

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return the images' names."""
        return [name for expected in self.layout() for name in self.files.glob(expected.pattern)]

    def rows(self, item: Item) -> Iterator[Row]:
        """Yield the image's one row."""
        name = str(item)
        image = read_image(self.files.read(name))
        label = LABELS[name.split("/")[0]]
        yield Row(sample=name, subject=outline_of(image), task="covid19", label=label, image=image)


def outline_of(grey: np.ndarray) -> str:
    """Return 64 bits that copies of an image have in common, most often at other sizes as well.

    Each bit says whether one of 8 x 8 places is brighter than the place to its right: the
    difference hash.
    """
    size = (OUTLINE_PX + 1, OUTLINE_PX)
    # Floating point: rounding to whole greys would differ between sizes.
    scaled = Image.fromarray(grey.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    small = np.asarray(scaled)
    return np.packbits(small[:, :-1] > small[:, 1:] + EQUAL).tobytes().hex()


SOURCE = CovidRadiography
