"""Where a run stands, read from what it published and from its log."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedkim_ray.run_folder import LOG_FILE, RunFolder
from fedkim_ray.storage import is_published

PHASES = {
    "run_started": "starting",
    "clients_starting": "clients start",
    "round_started": "clients train",
    "round_retried": "clients train, once more",
    "aggregated": "clients have trained",
    "injection_started": "injection",
    "injected": "injection is done",
    "scoring_started": "clients score",
    "scored": "clients have scored",
    "bundle": "finished",
    "aborted": "aborted",
    "failed": "failed",
}
"""What an event says of the run's present."""
BEGIN = {"round_started", "scoring_started"}
END = {"round_finished", "scored", "run_started", "failed"}
"""Events between which clients have plans."""


def read_status(run: RunFolder) -> dict[str, Any]:
    """Return where a run stands, in plain values; see docs/federation.md for each."""
    events = read_log(run)
    done, total = run.rounds_done(), run.recipe.federation.rounds
    finished = is_published(run.bundle)
    told = [e for e in events if e["event"] in PHASES]
    phase = "finished" if finished else PHASES[told[-1]["event"]] if told else "not started"
    return {
        "run_id": run.run_id,
        "recipe": run.recipe.name,
        "variant": run.recipe.variant,
        "rounds_done": done,
        "rounds": total,
        "waiting_for_injection": done < total and is_published(run.aggregated(done)),
        "phase": phase,
        "error": told[-1]["error"] if phase == "failed" else None,
        "last_event_s_ago": round(time.time() - events[-1]["time"], 1) if events else None,
        "abort_requested": run.abort_requested(),
        "current_round": current_round(events),
        "rounds_told": [_told(e["report"]) for e in events if e["event"] == "round_finished"],
        "failures_by_cause": dict(
            Counter(e["cause"] for e in events if e["event"] == "client_failed")
        ),
        "last_failure": {
            e["client"]: f"round {e['round']}: {e['cause']}: {e['message']}"
            for e in events
            if e["event"] == "client_failed"
        },
        "auroc": {e["round"]: _aurocs(e) for e in events if e["event"] == "scored"},
        "bundle": run.bundle.url if finished else None,
        "evaluated": run.evaluation.exists("report.json"),
    }


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    """Return the run's events; a line that was cut off by a crash is left out."""
    if not run.folder.exists(LOG_FILE):
        return []
    events = []
    for line in run.folder.read_bytes(LOG_FILE).decode(errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def current_round(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return who has answered, failed and is waited for; None between rounds."""
    marks = [place for place, event in enumerate(events) if event["event"] in BEGIN | END]
    if not marks or events[marks[-1]]["event"] in END:
        return None
    begun, since = events[marks[-1]], events[marks[-1] + 1 :]
    finished, failed = list[str](), dict[str, str]()
    for event in since:
        match event["event"]:
            case "client_finished":
                finished.append(event["client"])
            case "client_failed":
                failed[event["client"]] = event["cause"]
            case "round_retried":
                failed = {c: cause for c, cause in failed.items() if c not in event["clients"]}
    waiting = [c for c in begun["clients"] if c not in finished and c not in failed]
    return {"round": begun["round"], "finished": finished, "failed": failed, "waiting": waiting}


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one round's report that a person looks for first."""
    clients = report["clients"]
    losses = [c["metrics"]["train/loss"] for c in clients if "train/loss" in c["metrics"]]
    return {
        "round": report["round_index"],
        "seconds": report["seconds"],
        "clients": len(clients),
        "sampled": report.get("num_sampled", len(clients)),
        "failures": len(report["failures"]),
        "loss": sum(losses) / len(losses) if losses else None,
        "bytes_up": report["bytes_up"],
        "bytes_down": report["bytes_down"],
        "kept_groups": list(report.get("kept_groups", ())),
    }


def _aurocs(event: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return each head's AUROC before and after the round's injection."""
    return {
        task: {when: event[when].get(task, {}).get("auroc") for when in ("before", "after")}
        for task in sorted(event["before"].keys() | event["after"].keys())
    }
