"""Aggregate with Flower: rounds of client arrays on stdin, the global arrays after each on stdout.

Runs in Flower's own environment. stdin: {"strategy": name, "settings": {...}, "initial": [...],
"rounds": [[[values, num_examples], ...], ...]} for one array of one dimension.
"""

import json
import sys

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


def reply(values: list[float], num_examples: int) -> Message:
    """Return what a client sends back."""
    ask = Message(content=RecordDict(), dst_node_id=1, message_type="train")
    content = RecordDict(
        {
            "arrays": ArrayRecord([np.array(values, np.float32)]),
            "metrics": MetricRecord({"num-examples": num_examples}),
        }
    )
    return Message(content=content, reply_to=ask)


def main() -> None:
    """Run all rounds."""
    asked = json.load(sys.stdin)
    strategy = getattr(strategies, asked["strategy"])(**asked["settings"])
    strategy.current_arrays = ArrayRecord([np.array(asked["initial"], np.float32)])
    after = []
    for number, clients in enumerate(asked["rounds"], 1):
        arrays, _ = strategy.aggregate_train(number, [reply(v, n) for v, n in clients])
        after.append(arrays.to_numpy_ndarrays()[0].tolist())
    print(json.dumps(after))


if __name__ == "__main__":
    main()
