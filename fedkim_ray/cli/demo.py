"""``fedkim demo``: the whole mission in minutes, from data to an endpoint that answers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedkim_ray.cli.data import write_demo
from fedkim_ray.cli.options import Overrides

NOTE = (
    "Mortality and sepsis are real patients (SUPPORT2, CLIF demo); X-rays and ECGs are synthetic."
)


def demo(
    out: Annotated[str, typer.Option(help="Folder for data and run.")] = "runs/demo",
    recipe: Annotated[str, typer.Option(help="Recipe to run on the demo's data.")] = "demo",
    overrides: Overrides = None,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving until Ctrl-C.")] = False,
) -> None:
    """Run a federation, inject it, score the model, serve it and ask it, end to end."""
    from fedkim_ray.cli.evaluate import evaluate_run
    from fedkim_ray.cli.progress import RunProgress
    from fedkim_ray.injection.base_model import find_base, working_dtype
    from fedkim_ray.pipeline import run_recipe
    from fedkim_ray.recipe_files import load_recipe
    from serve.server import run_server

    console, phases = Console(), dict[str, float]()
    console.print(NOTE)
    data = f"{out}/data"
    loaded = load_recipe(recipe, [f"data.root={data}", *(overrides or [])])
    dtype = working_dtype(loaded.base.dtype, loaded.injection.use_gpu)
    minutes = "15 to 25" if dtype == "float32" else "5 to 10"
    console.print(f"In {dtype}, expect {minutes} minutes on 2 cores, after the first downloads.")
    with _phase("data", phases):
        write_demo(data)
    with _phase("base model", phases), console.status("Fetching and converting the base model"):
        find_base(loaded.base.name)
    with _phase("federation and injection", phases), RunProgress(console) as progress:
        run = _open_run(f"{out}/run", loaded)
        run_recipe(run, progress)
    with _phase("evaluation", phases):
        page = evaluate_run(run, console)
    with _phase("start serving", phases), console.status("Starting Ray Serve"):
        server = run_server(run.bundle.url, samples=data, port=0, no_auth=True)
    with server:
        with _phase("questions", phases):
            console.print(_ask_each_task(server.url, data, loaded.data.tasks))
        _print_phases(phases, console)
        console.print(f"Report: {page}")
        if keep:
            console.print(f"Serving at {server.url}; Ctrl-C ends it.")
            server.wait()


@contextmanager
def _phase(name: str, phases: dict[str, float]) -> Iterator[None]:
    """Time one phase."""
    begun = time.monotonic()
    yield
    phases[name] = time.monotonic() - begun


def _open_run(url: str, recipe: Any) -> Any:
    """Go on with an unfinished or finished demo of the same recipe, or start one."""
    from fedkim_ray.data.root import read_card
    from fedkim_ray.run_folder import RUN_FILE, RunFolder
    from fedkim_ray.storage import Folder

    if Folder.at(url).exists(RUN_FILE):
        return RunFolder.open(url, recipe)
    return RunFolder.create(url, recipe, read_card(Folder.at(recipe.data.root)).fingerprints)


def _ask_each_task(url: str, data: str, named: tuple[str, ...] | None) -> Table:
    """Ask one test question of each trained task over HTTP."""
    import httpx

    columns = ("task", "recorded", "answer", "probability", "strongest experts")
    table = Table(*columns, title="One test question of each trained task, asked over HTTP")
    with httpx.Client(base_url=url, timeout=120) as http:
        samples = http.get("/v1/samples").raise_for_status().json()["data"]
        for task in http.get("/v1/tasks").raise_for_status().json()["data"]:
            if task["role"] != "train" or (named and task["id"] not in named):
                continue
            sample = next(s["id"] for s in samples if s["task"] == task["id"])
            table.add_row(task["id"], *_answer(http, task["id"], sample))
    return table


def _answer(http: Any, task: str, sample_id: str) -> tuple[str, str, str, str]:
    """Return a test row's recorded answer, the model's, its probability, the top two experts."""
    sample = http.get(f"/v1/samples/{sample_id}").raise_for_status().json()
    reply = http.post(f"/v1/tasks/{task}/predict", json={"inputs": [sample["input"]]})
    told = reply.raise_for_status().json()["data"][0]
    said, weights = told["answer"], told["expert_weights"] or []
    strongest = sorted(range(len(weights)), key=lambda p: -weights[p])[:2]
    experts = ", ".join(f"{p}: {weights[p]:.2f}" for p in strongest)
    return sample["recorded_answer"], said, f"{told['label_probabilities'][said]:.2f}", experts


def _print_phases(phases: dict[str, float], console: Console) -> None:
    table = Table("phase", "seconds", title="Where the time went")
    for name, seconds in phases.items():
        table.add_row(name, f"{seconds:.0f}")
    console.print(table)
