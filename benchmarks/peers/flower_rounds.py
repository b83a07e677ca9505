"""Time Flower's simulation with clients that train nothing; JSON on the last line of stdout.

Runs in Flower's own environment: flower_rounds.py NUM_VALUES NUM_CLIENTS NUM_ROUNDS NUM_SLOTS
[torch]. With ``torch`` both apps import it at their head, as Flower's quickstart for PyTorch does.
"""

import itertools
import json
import sys
import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

NUM_VALUES, NUM_CLIENTS, NUM_ROUNDS, NUM_SLOTS = (int(a) for a in sys.argv[1:5])
IMPORTS_TORCH = "torch" in sys.argv[5:]
if IMPORTS_TORCH:
    import torch  # noqa: F401
ENDS: list[float] = []
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Send back what came."""
    if IMPORTS_TORCH:  # in the client's process this function is all that there is of this file
        import torch  # noqa: F401
    content = RecordDict(
        {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when each round is aggregated."""

    def aggregate_train(self, server_round, replies):
        """Aggregate and note the time."""
        result = super().aggregate_train(server_round, replies)
        ENDS.append(time.monotonic())
        return result


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    arrays = ArrayRecord([np.zeros(NUM_VALUES // 8, np.float32) for _ in range(8)])
    strategy = Timed(
        fraction_evaluate=0.0, min_train_nodes=NUM_CLIENTS, min_available_nodes=NUM_CLIENTS
    )
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=NUM_ROUNDS)


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=NUM_CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1},
            # "local": by default it would join any Ray that runs on this machine.
            "init_args": {
                "address": "local",
                "num_cpus": NUM_SLOTS,
                "include_dashboard": False,
            },
        },
    )
    rounds_s = [after - before for before, after in itertools.pairwise(ENDS)]
    print(json.dumps({"first_at": ENDS[0], "rounds_s": rounds_s}))
