"""What does the gate cost when answers are generated, token by token with a KV cache?

The same decode loop over the demo's base model: with the gate, with the ungated LoRA of the same
rank, and with the adapter folded and merged into the base. Beside them PEFT's X-LoRA over as many
experts of the same rank, by its own ``generate``: it forbids the KV cache and is slow, so it
generates fewer tokens from a prompt of the same length, and rates are compared.
"""

import tempfile
from collections.abc import Callable

import torch
from peft import LoraConfig, XLoraConfig, get_peft_model
from torch import nn

from benchmarks.harness import interleave, options, report
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import Batch, Example, collate
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.inference import decode
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.recipe_files import load_recipe

NUM_EXPERTS, RANK, NUM_TOKENS, XLORA_TOKENS = 12, 8, 16, 2
BASE = "smollm2-135m"
ADAPTERS = {"gated": "m3oe", "ungated_lora": "lora", "merged": "none"}


def model_with(adapter: str) -> InjectedModel:
    overrides = [
        f"injection.adapter={adapter}",
        f"injection.m3oe.num_experts={NUM_EXPERTS}",
        f"injection.m3oe.rank={RANK}",
    ]
    recipe = load_recipe("tiny", overrides)
    base = load_base(BASE, "float32")
    tasks = {task.id: task for task in TASKS}
    model = InjectedModel(base, recipe.injection, recipe.encoders, SPEC, tasks)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.004)
    return model.requires_grad_(False).eval()


def xlora_model() -> nn.Module:
    """PEFT's X-LoRA with its own classifier, over one saved adapter taken as every expert."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    one = LoraConfig(r=RANK, lora_alpha=32.0, target_modules=targets, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory(prefix="xlora-") as folder:
        get_peft_model(load_base(BASE, "float32").llm, one).save_pretrained(folder)
        llm = load_base(BASE, "float32").llm
        llm.config.use_cache = False
        experts = {str(expert): folder for expert in range(NUM_EXPERTS)}
        config = XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=llm.config.hidden_size,
            xlora_depth=1,
            adapters=experts,
        )
        return get_peft_model(llm, config).requires_grad_(False).eval()


def xlora_generation(model: nn.Module, size: int, length: int) -> Callable[[], None]:
    ids_BL = torch.randint(100, 1000, (size, length))
    only = {"min_new_tokens": XLORA_TOKENS, "max_new_tokens": XLORA_TOKENS, "do_sample": False}

    @torch.inference_mode()
    def run() -> None:
        model.generate(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), **only)

    return run


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
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 8], help="rows of a batch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    models = {name: model_with(adapter) for name, adapter in ADAPTERS.items()}
    xlora = xlora_model()
    tokens = {**dict.fromkeys(models, NUM_TOKENS), "xlora": XLORA_TOKENS}
    results = {}
    for size in args.sizes:
        batch = questions(size)
        cases = {name: generation(model, batch) for name, model in models.items()}
        length = models["gated"].prompt(batch).mask_BL.shape[1]
        cases["xlora"] = xlora_generation(xlora, size, length)
        timings = interleave(cases, args.repeats)
        results[f"batch {size}"] = {
            name: {
                **t.as_json(),
                "tokens_per_s": size * tokens[name] / t.median_s,
                "ratio_to_ungated": t.ratio_to(timings["ungated_lora"]) * NUM_TOKENS / tokens[name],
            }
            for name, t in timings.items()
        }
    settings = {
        "base": BASE,
        "rank": NUM_EXPERTS * RANK,
        "new_tokens": NUM_TOKENS,
        "new_tokens_xlora": XLORA_TOKENS,
        "dtype": "float32",
        "threads": args.threads,
        "repeats": args.repeats,
    }
    report("What does the gate cost in generation?", settings, results, args.out)


if __name__ == "__main__":
    main()
