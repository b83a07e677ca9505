"""What a round of the federation publishes, and how the next round starts from it.

encoders.safetensors    what injection starts from
server.safetensors      the strategy's whole state
report.json             who took part, losses, seconds, bytes, failures
"""

from collections.abc import Mapping
from typing import Any

from fedkim_ray.federation.aggregation import ServerState, state_from_tensors, state_tensors
from fedkim_ray.storage import Folder, open_published, publish

AGGREGATED, AGGREGATED_VERSION = "aggregated", 1
SCORES, SCORES_VERSION = "scores", 1
REPORT_FILE, SCORES_FILE = "report.json", "scores.json"


def publish_aggregated(folder: Folder, state: ServerState, report: Mapping[str, Any]) -> None:
    """Publish the state after a round, and the round's report."""
    encoders = {n: p for n, p in state.params.items() if n.startswith("encoders.")}
    with publish(folder, AGGREGATED, AGGREGATED_VERSION) as out:
        out.write_tensors("encoders.safetensors", encoders)
        out.write_tensors("server.safetensors", state_tensors(state))
        out.write_json(REPORT_FILE, dict(report))


def read_aggregated(folder: Folder) -> ServerState:
    """Return the state that was published.

    Raises:
        StorageError: nothing whole is published there.
    """
    open_published(folder, AGGREGATED, AGGREGATED_VERSION)
    return state_from_tensors(folder.read_tensors("server.safetensors"))


def publish_scores(folder: Folder, scores: Mapping[str, Any]) -> None:
    """Publish what clients scored before and after a round's injection."""
    with publish(folder, SCORES, SCORES_VERSION) as out:
        out.write_json(SCORES_FILE, dict(scores))
