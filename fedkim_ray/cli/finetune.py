"""``fedkim finetune``: what K examples of a task add to a bundle."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fedkim_ray.cli.options import AsJson, BundleUrl

if TYPE_CHECKING:
    from fedkim_ray.evaluation.shots import ShotCurve


def finetune(
    bundle: BundleUrl,
    data: Annotated[str, typer.Option(help="Data root with the task's test data.")],
    task: Annotated[str, typer.Option(help="The task, usually an unseen one.")],
    shots: Annotated[
        str, typer.Option(help="Numbers of shots, comma separated; 0 is zero-shot.")
    ] = "0,4,16,64",
    steps: Annotated[int, typer.Option(help="Optimizer steps for each number.", min=1)] = 30,
    max_questions: Annotated[
        int | None, typer.Option(help="Use a fixed subset of the test rows. Default: all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the shots and the order.", min=0)] = 0,
    out: Annotated[
        str | None, typer.Option(help="Folder for shots.json, shots.svg, shots.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a copy of a bundle on K shots, beside the same model without injection.

    Shots come from half of the task's test subjects; the other half are asked.

    Example: fedkim finetune runs/demo/run/bundle --data runs/demo/data --task sepsis --shots 0,16
    """
    from fedkim_ray.bundle.read import load_bundle
    from fedkim_ray.config import EvaluationConfig
    from fedkim_ray.evaluation.evaluate import load_questions
    from fedkim_ray.evaluation.shot_figure import write_curve
    from fedkim_ray.evaluation.shots import shot_curve
    from fedkim_ray.storage import Folder

    console, numbers = Console(stderr=True), _numbers(shots)
    if out:
        Folder.at(out).require_writable()
    loaded = load_bundle(bundle, "float32")
    root = Folder.at(data)
    test = load_questions(root, loaded.facts.spec, loaded.model.tasks, [task], max_questions)
    curve = shot_curve(
        loaded,
        test.tasks[task],
        test.samples[task],
        numbers,
        EvaluationConfig(),
        data_kind=test.card.kind_of(task),
        steps=steps,
        seed=seed,
        on_progress=lambda model, k: console.print(f"{model}, {k} shots"),
    )
    if out:
        write_curve(curve, Folder.at(out))
    if as_json:
        typer.echo(curve.model_dump_json())
    else:
        _print(curve)


def _numbers(shots: str) -> list[int]:
    from fedkim_ray.errors import RecipeError

    parts = shots.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise RecipeError(
            f"--shots is {shots!r}.",
            "It is one or more whole numbers, comma separated.",
            "For example --shots 0,4,16,64.",
        )
    return [int(part) for part in parts]


def _print(curve: "ShotCurve") -> None:
    title = (
        f"{curve.task} ({curve.data_kind}): {curve.metric} on {curve.num_questions} questions, "
        f"{curve.steps} steps a number of shots"
    )
    table = Table("shots", "injected", "uninjected", "difference", title=title, box=box.SIMPLE)
    for point in curve.points:
        values = (str(point.injected), str(point.uninjected), point.difference.signed())
        table.add_row(str(point.shots), *values)
    Console().print(table)
