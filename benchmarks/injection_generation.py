"""What does the gate cost when answers are generated, token by token with a KV cache?

The same decode loop over the demo's base model: with the gate, with the ungated LoRA of the same
rank, and with the adapter folded and merged into the base. Every row generates the same number of
tokens, so seconds are comparable.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.harness import interleave, options, report
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import Batch, Example, collate
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.inference import decode
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.recipe_files import load_recipe

NUM_EXPERTS, RANK, NUM_TOKENS = 12, 8, 16
ADAPTERS = {"gated": "m3oe", "ungated_lora": "lora", "merged": "none"}


def model_with(adapter: str) -> InjectedModel:
    overrides = [
        f"injection.adapter={adapter}",
        f"injection.m3oe.num_experts={NUM_EXPERTS}",
        f"injection.m3oe.rank={RANK}",
    ]
    recipe = load_recipe("tiny", overrides)
    base = load_base("smollm2-135m", "float32")
    tasks = {task.id: task for task in TASKS}
    model = InjectedModel(base, recipe.injection, recipe.encoders, SPEC, tasks)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.004)
    return model.requires_grad_(False).eval()


def questions(size: int) -> Batch:
    """Rows of text alone: a question of one length each."""
    task = next(t for t in TASKS if t.id == "med_vqa")
    row = Example(
        sample_id="0",
        subject_id="0",
        task=task.id,
        question="Describe what a radiologist looks for in a chest X-ray.",
        answer="",
        label=None,
        text="A short clinical note.",
        arrays={},
        observed={},
    )
    return collate([row] * size, SPEC)


def generation(model: InjectedModel, batch: Batch) -> Callable[[], None]:
    def run() -> None:
        model.tokenizer.eos_token = None  # every row goes on to the last token
        for _ in decode(model, batch, NUM_TOKENS):
            pass

    return run


def main() -> None:
    args = options(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    models = {name: model_with(adapter) for name, adapter in ADAPTERS.items()}
    results = {}
    for size in (1, 8):
        batch = questions(size)
        cases = {name: generation(model, batch) for name, model in models.items()}
        timings = interleave(cases, args.repeats)
        results[f"batch {size}"] = {
            name: {
                **t.as_json(),
                "tokens_per_s": size * NUM_TOKENS / t.median_s,
                "ratio_to_ungated": t.ratio_to(timings["ungated_lora"]),
            }
            for name, t in timings.items()
        }
    settings = {
        "base": "smollm2-135m",
        "rank": NUM_EXPERTS * RANK,
        "new_tokens": NUM_TOKENS,
        "dtype": "float32",
        "threads": args.threads,
        "repeats": args.repeats,
    }
    report("What does the gate cost in generation?", settings, results, args.out)


if __name__ == "__main__":
    main()
