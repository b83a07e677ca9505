"""How much does an evaluation add to the forward passes that it cannot do without?

Cases, each over the same yes/no questions, interleaved:

    evaluate            score_samples: decoding, batching, answers table
    bare                the batched forward passes alone, on batches prepared beforehand
    generate_batches    transformers.generate on prompt embeddings in the same batches, and parse
    generate_one        the same one question at a time, as the authors' code does it

``generate_one`` is slow, so it takes its own share of the questions and is quoted per question.
Agreement is the share of questions on which likelihood and words give the same answer.

    python benchmarks/evaluation.py BUNDLE DATA --questions 1000
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from harness import Timing, interleave, options, report

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import Batch, Example, SampleSet, collate
from fedkim_ray.evaluation.answers import said_label
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.evaluation.scoring import batches_of, score_samples
from fedkim_ray.injection.inference import score
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId

Results = dict[str, Any]


def forward(model: InjectedModel, batches: Sequence[Batch]) -> list[int]:
    """Return 0 or 1 of every row, from one forward pass a batch."""
    return [int(p > 0.5) for batch in batches for p in score(model, batch)[:, 1].tolist()]


@torch.inference_mode()
def generate(
    model: InjectedModel, batches: Sequence[Batch], max_new_tokens: int
) -> list[int | None]:
    """Return what the words say of every row: 0, 1 or neither."""
    said: list[int | None] = []
    stop = model.tokenizer(model.format.answer_close, add_special_tokens=False).input_ids[0]
    for batch in batches:
        prompted = model.prompt(batch)
        with model.hold(prompted.alpha_BP):
            ids = model.causal_lm.generate(
                inputs_embeds=prompted.embeds_BLE,
                attention_mask=prompted.mask_BL,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=[stop, model.tokenizer.eos_token_id],
                pad_token_id=stop,
            )
        texts = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
        tasks = [model.tasks[e.task] for e in batch.examples]
        said += [said_label(t, task.answer_words) for t, task in zip(texts, tasks, strict=True)]
    return said


def agreement(a: Sequence[int | None], b: Sequence[int | None]) -> float:
    """Return the share of questions on which both say the same."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def batched(model: InjectedModel, rows: Sequence[Example], size: int) -> list[Batch]:
    return [collate(rows[i : i + size], model.light.spec) for i in range(0, len(rows), size)]


def spread(rows: Sequence[Example], num: int) -> Sequence[Example]:
    """Return about ``num`` rows, evenly over all lengths."""
    return rows[:: max(1, len(rows) // num)]


def in_scoring_order(
    model: InjectedModel, samples: Mapping[TaskId, SampleSet], size: int
) -> list[Example]:
    """Return the questions as an evaluation batches them, decoded."""
    batches = batches_of(model, samples, size, "likelihood")
    return [samples[q.task][q.row] for batch in batches for q in batch]


def measure(model: InjectedModel, samples: Mapping[TaskId, SampleSet], a: Namespace) -> Results:
    """Time all cases, and compare the answers."""
    size, new = a.batch_size, a.max_new_tokens
    every = in_scoring_order(model, samples, size)
    some = spread(every, a.generated)
    few = spread(some, a.one_by_one)
    bare, generated = batched(model, every, size), batched(model, some, size)
    single = batched(model, few, 1)
    timings = interleave(
        {
            "evaluate": lambda: score_samples(model, samples, batch_size=size, max_new_tokens=new),
            "bare": lambda: forward(model, bare),
            "generate_batches": lambda: generate(model, generated, new),
            "generate_one": lambda: generate(model, single, new),
        },
        a.repeats,
    )
    counts = dict(zip(timings, map(len, (every, every, some, few)), strict=True))
    words = generate(model, generated, new)
    return {
        **{name: per_question(timing, counts[name]) for name, timing in timings.items()},
        "evaluate_to_bare": timings["evaluate"].ratio_to(timings["bare"]),
        "agreement": {
            "same_answer": agreement(forward(model, generated), words),
            "neither_word": words.count(None) / len(words),
            "questions": len(words),
        },
    }


def per_question(timing: Timing, num_questions: int) -> dict[str, float]:
    cost = 1000 * timing.median_s / num_questions
    return {**timing.as_json(), "questions": num_questions, "ms_per_question": cost}


def main() -> None:
    parser = options("Time an evaluation against its forward passes and against generation.")
    parser.add_argument("bundle", help="a bundle's folder")
    parser.add_argument("data", help="a data root")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--generated", type=int, default=256, help="questions that are generated")
    parser.add_argument("--one-by-one", type=int, default=32, help="questions generated singly")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.bundle)
    model = bundle.model
    yes_no = [task.id for task in model.tasks.values() if task.kind == "yes_no"]
    root, spec = Folder.at(arguments.data), model.light.spec
    test = load_questions(root, spec, model.tasks, yes_no, arguments.questions)
    report(
        "What does an evaluation add to its forward passes, and what would generating cost?",
        {**vars(arguments), "bundle": bundle.facts.name, "data": test.card.name},
        measure(model, test.samples, arguments),
        arguments.out,
    )


if __name__ == "__main__":
    main()
