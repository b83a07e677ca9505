"""How much longer is an epoch in a client than in a bare PyTorch loop?

    python -m benchmarks.federation_epoch --data ROOT     # from `fedkim data demo ROOT`

The bare loop has the same model, the same batches and a fused Adam, and nothing else: no groups, no
counts, no update. Validation is left out of both.
"""

import tempfile

import torch
from torch.nn import functional as F

from benchmarks.harness import interleave, options, report
from fedkim_ray.data.demo.tiny import write_tiny_root
from fedkim_ray.data.loading import JoinedSamples, collate, epoch_batches
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.federation.client import Client, new_model
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.setup import ClientSetup
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder


def bare_epoch(client: Client, params: dict[str, torch.Tensor], batch_size: int, lr: float) -> None:
    """Train one epoch as anybody would write it."""
    model, setup = new_model(client.setup), client.setup
    model.load_params(params)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    examples = JoinedSamples(client.data.train)
    order = torch.Generator().manual_seed(0)
    for rows in epoch_batches(len(examples), batch_size, order):
        batch = collate([examples[i] for i in rows], setup.spec)
        encoded = model.encode(batch)
        labels = torch.tensor([float(e.label or 0) for e in batch.examples])
        loss = torch.zeros(())
        for task in client.tasks:
            mine = batch.rows_of(task.id)
            if len(mine):
                logits = model.logits(encoded, task, mine, batch.size)
                loss = loss + F.binary_cross_entropy_with_logits(logits, labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--data", help="a data root; the tiny synthetic one where absent")
    parser.add_argument("--recipe", default="demo")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = args.data or folder
        if not args.data:
            write_tiny_root(root, num_private=480)
        recipe, card = load_recipe(args.recipe), read_card(Folder.at(root))
        trained = tuple(t for t in TASKS if t.role == "train")
        client_id = card.clients[0]
        setup = ClientSetup(
            client_id=client_id,
            data_url=root,
            spec=card.spec,
            encoders=recipe.encoders,
            tasks=tuple(t for t in trained if t.id in card.tasks_of(client_id)),
            all_tasks=trained,
            threads=args.threads,
        )
        client = Client(setup)
        params = client.model.params()
        local = recipe.federation.local.model_copy(update={"epochs": 1})
        plan = RoundPlan(round_index=0, client_id=client_id, seed=0, local=local)

        def in_client() -> None:
            client.model.load_params(params)
            for name, parameter in client.model.named_parameters():
                parameter.requires_grad_(name in client.theta)
            client._train(plan, params)

        timings = interleave(
            {
                "client": in_client,
                "bare": lambda: bare_epoch(client, params, local.batch_size, local.lr),
            },
            args.repeats,
        )
    results = {
        "client_over_bare": timings["client"].ratio_to(timings["bare"]),
        **{name: timing.as_json() for name, timing in timings.items()},
    }
    num_examples = sum(len(samples) for samples in client.data.train.values())
    settings = {
        "recipe": args.recipe,
        "data": card.name,
        "client": client_id,
        "examples": num_examples,
        "threads": args.threads,
    }
    report("How long is an epoch in a client?", settings, results, args.out)


if __name__ == "__main__":
    main()
