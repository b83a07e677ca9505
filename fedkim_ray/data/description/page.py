"""A data root as one self-contained page, for the eyes of those who may see the data."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from fedkim_ray.data.description.figures import (
    ecg_strip,
    image_row,
    label_balance,
    missingness,
)
from fedkim_ray.data.description.survey import PlaceFacts
from fedkim_ray.data.importing.record import ImportRecord, read_records
from fedkim_ray.data.loading import Example, SampleSet
from fedkim_ray.data.root import DatasetCard
from fedkim_ray.data.sample_files import Origin, stream_samples
from fedkim_ray.drawing import svg
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId

TEMPLATE = Path(__file__).with_name("page.html")
PER_TASK = 4
"""Examples of each task that are shown."""
STRIPS_PER_TASK = 2


def description_page(
    root: Folder, card: DatasetCard, places: Sequence[PlaceFacts], away: Sequence[str] = ()
) -> str:
    """Return the page. Examples are of the public or test data where a task has them.

    Args:
        root: The data root.
        card: Of the files that are here.
        places: What they hold.
        away: Files that are not here.
    """
    shown = {task: _examples(root, card, task) for task in sorted({p.task for p in places})}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    return environment.get_template(TEMPLATE.name).render(
        card=card,
        url=root.url,
        places=places,
        away=away,
        imports=list(read_records(root).values()),
        rejected=_sentence,
        balance=_inline(label_balance(places)),
        missing=[
            _inline(missingness(places, modality))
            for modality in card.spec.series
            if any(modality in place.features for place in places)
        ],
        pictures={task: _pictures(examples, card) for task, examples in shown.items() if examples},
    )


def _inline(figure: Figure) -> Markup:
    return Markup(svg(figure))


def _sentence(record: ImportRecord) -> str:
    rejected = ", ".join(f"{reason} {n}" for reason, n in record.rejected.items()) or "none"
    left_out = ", ".join(f"{reason} {n}" for reason, n in record.left_out.items()) or "none"
    return f"{record.num_rows} rows read; rejected: {rejected}; left out: {left_out}"


def _examples(root: Folder, card: DatasetCard, task: TaskId) -> list[Example]:
    """Return the first rows of each label in turn, of public data if there are any."""
    places = (f"public/{task}/", f"test/{task}/", "clients/")
    files = [n for p in places for n in sorted(card.files) if n.startswith(p) and f"/{task}/" in n]
    if not files:
        return []
    table = next(stream_samples(root, files[0], card.spec))
    rows = SampleSet(table, card.spec, Origin({root.full(files[0]): table.num_rows}))
    labels = table["label"].to_pylist() if "label" in table.column_names else []
    of_label = [[i for i, x in enumerate(labels) if x == value] for value in (1, 0)]
    turns = [row for pair in zip(*of_label, strict=False) for row in pair]
    return [rows[i] for i in islice(turns or range(len(rows)), PER_TASK)]


def _pictures(examples: Sequence[Example], card: DatasetCard) -> list[Markup]:
    """Return what of the examples can be drawn."""
    figures = []
    if images := [e for e in examples if "image" in e.arrays]:
        figures.append(image_row(images))
    if signal := card.spec.signal:
        strips = [e for e in examples if "signal" in e.arrays][:STRIPS_PER_TASK]
        figures += [ecg_strip(example, signal) for example in strips]
    return [_inline(figure) for figure in figures]
