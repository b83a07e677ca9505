"""What a study reads from the folders of its runs."""

from collections.abc import Callable
from pathlib import Path

from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import LOG_FILE, RunFolder
from fedkim_ray.study.plan import PlannedRun
from fedkim_ray.study.results import study_report


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
