"""What a study reads from the folders of its runs."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from fedkim_ray.data.tasks import TASKS
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import LOG_FILE, RunFolder
from fedkim_ray.study.plan import PlannedRun
from fedkim_ray.study.results import study_report, training_seconds


def test_a_line_that_a_crash_cut_off_is_no_event(
    score: Callable[..., None], tmp_path: Path
) -> None:
    folder = RunFolder.create(str(tmp_path), load_recipe("tiny"))
    folder.log({"event": "run_started", "time": 100.0})
    with (tmp_path / LOG_FILE).open("a") as log:
        log.write('{"event": "aggre\n')
    folder.log({"event": "bundle", "time": 160.0})
    run = PlannedRun("fedkim", 0, folder.recipe, folder.folder, ("mortality",))
    score(run, "mortality")
    (facts,) = study_report([run], {}, {}).runs
    assert facts.training_s == 60.0


def test_a_task_that_the_recipe_leaves_out_is_not_among_the_trained(
    score: Callable[..., None], tmp_path: Path
) -> None:
    recipe = load_recipe("tiny", ["data.tasks=[mortality]"])
    folder = RunFolder.create(str(tmp_path), recipe)
    run = PlannedRun("fedkim", 0, recipe, folder.folder, ("mortality", "covid19"))
    score(run, "mortality", "covid19")
    rows = [answer(task, label) for task in ("mortality", "covid19") for label in (0, 1)]
    heads = {"heads": {0: pa.Table.from_pylist(rows, ANSWERS)}}
    report = study_report([run], heads, {task.id: task for task in TASKS})
    assert report.tasks("train") == ["mortality"]
    assert report.tasks("left_out") == ["covid19"]


def test_training_seconds_are_those_of_every_start() -> None:
    # Killed 40 s after its start, started again an hour later, and done in 20 s.
    times = {"first_round_shared": 0, "run_started": 100, "injected": 140}
    first = [{"event": event, "time": float(time)} for event, time in times.items()]
    again = [{"event": "run_started", "time": 3700.0}, {"event": "bundle", "time": 3720.0}]
    assert training_seconds([*first, *again]) == 60.0
    assert training_seconds(first) is None


def answer(task: str, label: int) -> dict[str, object]:
    word = ("No", "Yes")[label]
    same = {"role": "train", "kind": "yes_no", "reading": "head", "probability_yes": 0.5}
    ids = {"sample_id": f"s{label}", "subject_id": f"p{label}", "task": task}
    return {**same, **ids, "label": label, "answer": word, "said": word}
