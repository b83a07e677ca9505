"""How fast is a training step of the demo's model, and where does its time go?

Ours (DeepSpeed, routed experts, encoders, output head at answer positions only) against
transformers' Trainer with a PEFT LoRA of the same rank on token sequences of the same shape, whose
loss is taken at the same answer tokens. Both step once a case; each takes turns with the other.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from benchmarks.harness import interleave, options, report
from fedkim_ray.config import Recipe
from fedkim_ray.data.loading import Batch, collate, load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import task_table
from fedkim_ray.injection.base_model import load_base, working_dtype
from fedkim_ray.injection.draws import draw_batches
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.injection.training import build_engine
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

PEAK_SIZE = 1536


def build(recipe: Recipe, dtype: str) -> tuple[Any, InjectedModel, Batch]:
    """Return an engine, the model inside it, and a batch as the first step draws it."""
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")
    root = Folder.at(recipe.data.root)
    spec, tasks = read_card(root).spec, task_table(())
    trained = [t for t, task in tasks.items() if task.role == "train"]
    samples = {t: load_samples(root / "public" / t / "train", spec) for t in trained}
    injection, base = recipe.injection, load_base(recipe.base.name, dtype)
    model = InjectedModel(base, injection, recipe.encoders, spec, tasks).to(base.llm.dtype)
    sizes = {t: len(s) for t, s in samples.items()}
    [drawn] = islice(draw_batches(sizes, {}, injection.batch_size, recipe.seed), 1)
    engine = build_engine(model, None, injection, dtype)
    return engine, model.train(), collate([samples[d.task][d.index] for d in drawn], spec)


def our_step(engine: Any, model: InjectedModel, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        loss, _ = engine(batch)
        engine.backward(loss)
        model.release()
        engine.step()

    return step


def trainer_step(recipe: Recipe, dtype: str, prompted: Prompted) -> Callable[[], None]:
    """Return one step of transformers' Trainer: its own training_step, clipping and AdamW."""
    m3oe, llm = recipe.injection.m3oe, load_base(recipe.base.name, dtype).llm
    linear = {n.rsplit(".", 1)[-1] for n, m in llm.named_modules() if isinstance(m, nn.Linear)}
    config = LoraConfig(
        r=m3oe.num_experts * m3oe.rank,
        lora_alpha=m3oe.lora_alpha,
        lora_dropout=m3oe.dropout,
        target_modules=sorted(linear - {"lm_head"}),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(llm, config).train()
    ids_BL = torch.randint(0, 1000, tuple(prompted.mask_BL.shape))
    labels_BL = torch.full_like(ids_BL, -100)
    labels_BL[prompted.answer_rows_A, prompted.answer_columns_A + 1] = prompted.answer_ids_A
    inputs = {"input_ids": ids_BL, "attention_mask": prompted.mask_BL, "labels": labels_BL}
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="trainer-"),
        use_cpu=True,
        bf16=dtype == "bfloat16",
        report_to=[],
    )
    trainer = Trainer(model=model, args=arguments)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # its own loop would set it

    def step() -> None:
        trainer.training_step(model, dict(inputs))
        nn.utils.clip_grad_norm_(model.parameters(), recipe.injection.gradient_clip)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def gemm_step(dtype: str) -> Callable[[], None]:
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, dtype=getattr(torch, dtype)) for _ in range(2))

    def step() -> None:
        for _ in range(8):
            a @ b

    return step


def step_flops(model: InjectedModel, prompted: Prompted) -> float:
    """Twice the multiply-adds: frozen layers pass gradients on, adapters get their own too."""
    llm = model.causal_lm
    head = llm.get_output_embeddings()
    adapted = frozen = 0
    for name, parameter in llm.named_parameters():
        if "lora_" in name:
            adapted += parameter.numel()
        elif name.endswith("base_layer.weight"):
            frozen += parameter.numel()
    tokens, answers = prompted.mask_BL.numel(), len(prompted.answer_rows_A)
    return float(tokens * (4 * frozen + 6 * adapted) + 4 * answers * head.weight.numel())


def share_of_phases(
    engine: Any, model: InjectedModel, batch: Batch, repeats: int
) -> dict[str, float]:
    """Shares of a step's wall time, medians: prompt and forward, backward, and optimizer."""
    spent: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        loss, _ = engine(batch)
        forward = time.perf_counter()
        engine.backward(loss)
        model.release()
        backward = time.perf_counter()
        engine.step()
        ends = (begun, forward, backward, time.perf_counter())
        for seconds, first, last in zip(spent.values(), ends, ends[1:], strict=False):
            seconds.append(last - first)
    medians = {phase: statistics.median(seconds) for phase, seconds in spent.items()}
    return {phase: seconds / sum(medians.values()) for phase, seconds in medians.items()}


def where_time_goes(step: Callable[[], None]) -> dict[str, float]:
    """Shares of a step's own operator time, the largest eight operators and the rest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        step()
    spent = {e.key: e.self_cpu_time_total for e in profile.key_averages()}
    total = sum(spent.values())
    largest = sorted(spent, key=lambda k: -spent[k])[:8]
    shares = {name: spent[name] / total for name in largest}
    return {**shares, "the rest": 1.0 - sum(shares.values())}


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as `fedkim data demo DIR` makes it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # as injection's workers do; the Trainer gains by it too
    os.environ.update(DS_ACCELERATOR="cpu", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29601")
    recipe = load_recipe("demo", [f"data.root={args.data}"])
    dtype = working_dtype("auto", on_gpu=False)
    torch.manual_seed(0)
    engine, model, batch = build(recipe, dtype)
    with torch.no_grad():
        prompted = model.prompt(batch, [e.answer for e in batch.examples])
    ours = our_step(engine, model, batch)
    cases = {
        "fedkim": ours,
        "trainer": trainer_step(recipe, dtype, prompted),
        "gemm": gemm_step(dtype),
    }
    timings = interleave(cases, args.repeats, warmup=2)
    tokens = int(prompted.mask_BL.sum())
    peak = 8 * 2 * PEAK_SIZE**3 / timings["gemm"].median_s
    flops = step_flops(model, prompted)
    results = {
        "cases": {n: t.as_json() for n, t in timings.items()},
        "tokens_per_s": {n: tokens / timings[n].median_s for n in ("fedkim", "trainer")},
        "speed_to_trainer": timings["trainer"].ratio_to(timings["fedkim"]),
        "gemm_gflops": peak / 1e9,
        "share_of_gemm_peak": flops / timings["fedkim"].median_s / peak,
        "share_of_phases": share_of_phases(engine, model, batch, args.repeats),
        "share_of_operator_time": where_time_goes(ours),
    }
    settings = {
        "recipe": "demo",
        "dtype": dtype,
        "batch": list(prompted.mask_BL.shape),
        "rank": recipe.injection.m3oe.num_experts * recipe.injection.m3oe.rank,
        "threads": args.threads,
        "repeats": args.repeats,
    }
    report("How fast is a training step of the demo's model?", settings, results, args.out)


if __name__ == "__main__":
    main()
