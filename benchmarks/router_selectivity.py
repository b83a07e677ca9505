"""Do the router's expert weights depend on modalities as they do on tasks?

For the router as it starts, for one that starts with its projections scaled so that Q, K and V have
entries of about unit size whatever the size of the base's embeddings, and for trained bundles:

    score_std        standard deviation of Q K^T / sqrt(d_k) over a pair's token pairs
    attention        entropy of an attention row, as a share of uniform attention's
    by_modality      mean total variation distance of alpha between two modalities, task held
    by_task          the same between two tasks, modality held
"""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import options, report
from fedkim_ray.bundle.read import load_base_of, load_bundle, read_facts
from fedkim_ray.data.modalities import DESCRIPTIONS
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import BaseModel
from fedkim_ray.injection.parts import embedding_size, make_router
from fedkim_ray.injection.router import EmbeddedTexts, Router
from fedkim_ray.storage import Folder

Embed = Callable[[str], Tensor]


def embedder(base: BaseModel) -> Embed:
    weight = base.llm.get_input_embeddings().weight.detach().float()

    def embed(text: str) -> Tensor:
        return weight[torch.tensor(base.tokenizer(text, add_special_tokens=False).input_ids)]

    return embed


def in_unit_size(router: Router, embed_scale: float) -> Router:
    for projection in (router.W_q, router.W_k, router.W_v):
        projection.weight.data.div_(embed_scale)
    return router


@torch.inference_mode()
def selectivity(router: Router, embed: Embed) -> dict[str, float]:
    stds, shares = [], []
    for task in TASKS:
        tokens = embed(task.description)
        for text in DESCRIPTIONS.values():
            Q, K = router.W_q(embed(text)), router.W_k(tokens)
            scores_MK = Q @ K.T / math.sqrt(Q.shape[-1] / router.num_heads)
            p_MK = scores_MK.softmax(-1)
            entropy = -(p_MK * p_MK.clamp(min=1e-12).log()).sum(-1).mean()
            stds.append(float(scores_MK.std()))
            shares.append(float(entropy) / math.log(len(tokens)))
    pairs = [(t.description, d) for t in TASKS for d in DESCRIPTIONS.values()]
    tasks, modalities = (EmbeddedTexts.pad([embed(p[side]) for p in pairs]) for side in (0, 1))
    alpha = router(tasks, modalities)
    alpha_TMP = alpha.view(len(TASKS), len(DESCRIPTIONS), -1)
    return {
        "score_std": sum(stds) / len(stds),
        "attention": sum(shares) / len(shares),
        "by_modality": _mean_distance(alpha_TMP.transpose(0, 1)),
        "by_task": _mean_distance(alpha_TMP),
    }


def _mean_distance(alpha_XYP: Tensor) -> float:
    """Return the mean total variation distance between any two of X, Y held."""
    each = [float((a - b).abs().sum(-1).mean() / 2) for a, b in combinations(alpha_XYP.unbind(), 2)]
    return sum(each) / len(each)


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", help="trained bundles of one base, one router head")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = read_facts(Folder.at(args.bundles[0]))
    base = load_base_of(facts, "float32")
    embed, (width, scale) = embedder(base), embedding_size(base.llm)
    m3oe = facts.injection.m3oe
    results: dict[str, Any] = {}
    for seed in range(3):
        torch.manual_seed(seed)
        router = make_router(m3oe, width)
        results[f"start, seed {seed}"] = selectivity(router, embed)
        results[f"unit size, seed {seed}"] = selectivity(in_unit_size(router, scale), embed)
    for url in args.bundles:
        trained = load_bundle(url, "float32")
        name = f"{trained.facts.name}, {trained.facts.steps} steps, {trained.facts.version}"
        results[name] = selectivity(trained.model.router, embed)
    settings = {"base": facts.base.name, "embedding_rms": scale, "num_experts": m3oe.num_experts}
    report("Does alpha depend on modalities as on tasks?", settings, results, args.out)


if __name__ == "__main__":
    main()
