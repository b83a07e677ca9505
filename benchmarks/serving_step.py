"""What one step of the engine costs by the number of rows in it, with and without the adapter.

    python -m benchmarks.serving_step BUNDLE --data ROOT --out step.json

A prefill reads the rows' prompts; a step generates one token for each row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache

from benchmarks.harness import interleave, report
from benchmarks.serving_tools import GENERATED, serving_options
from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import collate, load_samples
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.storage import Folder
from serve.fast_steps import speed_up_steps

ROWS = (1, 4, 16)


@contextmanager
def bare(model: InjectedModel) -> Iterator[None]:
    """Run the base model without its adapter, for the length of a block."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    adapted = [layer.forward for layer in layers]
    for layer in layers:
        layer.forward = layer.base_layer.forward
    try:
        yield
    finally:
        for layer, forward in zip(layers, adapted, strict=True):
            layer.forward = forward


def run(model: InjectedModel, prompted: Prompted, cache: DynamicCache) -> None:
    """Run the model and its head over what the cache does not hold yet."""
    num_rows = prompted.mask_BL.shape[0]
    with torch.inference_mode(), model.hold(prompted.alpha_BP):
        out = model.hidden(prompted, past_key_values=cache, use_cache=True)
        model.head(out.last_hidden_state[:, -1], torch.arange(num_rows))


def prefill(model: InjectedModel, prompted: Prompted) -> None:
    """Read prompts."""
    run(model, prompted, DynamicCache())


def step(model: InjectedModel, extended: Prompted, cache: DynamicCache) -> None:
    """Generate one token a row, and forget it."""
    run(model, extended, cache)
    cache.crop(-1)


def cases(model: InjectedModel, data: str, spec: Any) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    named: dict[str, Callable[[], object]] = {}
    samples = load_samples(Folder.at(data) / "test" / GENERATED[-1], spec, rows=range(max(ROWS)))
    for rows in ROWS:
        with torch.inference_mode():
            prompted = model.prompt(collate([samples[i] for i in range(rows)], spec))
            extended = model.extend(prompted, torch.zeros(rows, dtype=torch.long))
        cache = DynamicCache()
        run(model, prompted, cache)
        newest = extended.from_column(cache.get_seq_length())
        named[f"prefill of {rows}"] = partial(prefill, model, prompted)
        named[f"step of {rows}"] = partial(step, model, newest, cache)
    return named


def main() -> None:
    """Time prefills and steps."""
    settings = serving_options(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    bundle = load_bundle(settings.bundle)
    speed_up_steps(bundle.model)
    timed = cases(bundle.model, settings.data, bundle.facts.spec)
    results = {"with the adapter": interleave(timed, settings.repeats)}
    with bare(bundle.model):
        results["without"] = interleave(timed, settings.repeats)
    told = {name: {case: t.as_json() for case, t in r.items()} for name, r in results.items()}
    report(__doc__ or "", vars(settings), told, settings.out)


if __name__ == "__main__":
    main()
