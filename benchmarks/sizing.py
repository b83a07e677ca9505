"""What does a run ask for: bytes a round, memory of a worker, disk of the run folder?

Exact for the data and base model at hand; for recipes whose data or GPUs are elsewhere, worked out
from shapes alone, and labelled so. Nothing is trained. JSON on stdout.

    python benchmarks/sizing.py [--data ROOT]
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from fedkim_ray.config import Recipe
from fedkim_ray.data.root import DatasetCard, read_card
from fedkim_ray.data.schema import DataSpec, FeatureSpec, ImageSpec, SeriesSpec, SignalSpec
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.doctor.needs import needs_of
from fedkim_ray.federation.sizing import transfers
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

TRAINED = tuple(task for task in TASKS if task.role == "train")
SEVEN_BILLION = LlamaConfig(
    vocab_size=92544,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
"""InternLM2-7B's shape in Llama's layout: 7.7 billion parameters."""
RATES_MBIT = (10, 100, 1000)
"""Lines to a client that the transfer of a round is told for."""


def paper_spec() -> DataSpec:
    """Return shapes like FedMEKI's: images of 224, 12 leads of 10 s, 48 features of 24 hours."""
    feature = FeatureSpec(name="f", unit="1", low=0.0, high=1.0)
    counts = {"lab": 20, "vital": 8, "input": 12, "output": 8}
    return DataSpec(
        image=ImageSpec(size_px=224),
        signal=SignalSpec(leads=tuple(f"L{i}" for i in range(12)), num_samples=1000),
        series={
            modality: SeriesSpec(
                features=tuple(feature.model_copy(update={"name": f"f{i}"}) for i in range(count)),
                hours=24,
            )
            for modality, count in counts.items()
        },
    )


def row(name: str, recipe: Recipe, card: DatasetCard, base: Path, num_clients: int) -> Any:
    """Return what one run asks for."""
    clients = [f"c{i}" for i in range(num_clients)]
    needs = needs_of(recipe, card, TRAINED, base, clients)
    theta = needs.global_model
    times = sum(transfers(recipe.federation, 1))
    return {
        "run": name,
        "clients": num_clients,
        "theta_bytes": theta,
        "round_bytes": needs.round_traffic,
        "round_transfer_s": {
            f"{rate} Mbit/s": round(times * theta * 8 / (rate * 1e6), 2) for rate in RATES_MBIT
        },
        "injection_worker_bytes_unsharded": needs.injection_memory,
        "run_folder_bytes": needs.run_disk,
        "rounds": recipe.federation.rounds,
    }


def rows(data: str | None) -> list[Any]:
    """Return every row: the data root that is named, and the paper's shapes."""
    found = []
    if data:
        card = read_card(Folder.at(data))
        recipe = load_recipe("tiny", [f"data.root={data}"])
        base = find_base(recipe.base.name)
        found.append(row(f"tiny on {card.name}", recipe, card, base, len(card.clients)))
    unseen = DatasetCard(name="shapes", sources=(), spec=paper_spec(), seed=0, split_rule="none")
    with tempfile.TemporaryDirectory() as folder:
        SEVEN_BILLION.save_pretrained(folder)
        for num_clients in (5, 100):
            paper = load_recipe("paper")
            name = "paper, extrapolated from shapes"
            found.append(row(name, paper, unseen, Path(folder), num_clients))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a data root of the tiny recipe")
    print(json.dumps(rows(parser.parse_args(arguments).data), indent=1))


if __name__ == "__main__":
    main()
