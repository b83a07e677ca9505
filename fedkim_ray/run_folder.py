"""The folder of one run: what is in it, how a run starts there, and where it goes on.

run.json, recipe.yaml               written at the start
log.jsonl                           events, one JSON object a line
abort.json                          left by `fedkim abort` until the run is resumed
driver.json                         who drives the run, while one does (driving.py)
rounds/0000/aggregated/             published after the clients' round (federation/round_files.py)
rounds/0000/injected/               published by injection (injection/round_files.py)
rounds/0000/scores/                 published after it: what the clients' heads make of the encoders
    scores.json                     before and after the injection, by task
bundle/                             published at the end (bundle/layout.py)
evaluation/                         report.json, answers.parquet, report.html
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from fedkim_ray.config import Recipe
from fedkim_ray.errors import StorageError
from fedkim_ray.recipe_files import dump_recipe, parse_recipe
from fedkim_ray.storage import Folder, is_published

FORMAT_VERSION = 1
RUN_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
LOG_FILE = "log.jsonl"
ABORT_FILE = "abort.json"


class _RunFacts(BaseModel):
    """What run.json has."""

    format_version: int
    run_id: str
    data: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's place on disk or in an object store."""

    folder: Folder
    run_id: str
    recipe: Recipe
    data: Mapping[str, str] | None = None
    """The fingerprints of the data that it began with, by folder; None where it does not say."""

    @classmethod
    def create(cls, url: str, recipe: Recipe, data: Mapping[str, str] | None = None) -> "RunFolder":
        """Start a run in an empty folder.

        Args:
            url: The run's folder.
            recipe: What it runs.
            data: ``DatasetCard.fingerprints`` of its data root: it goes on with no other data.

        Raises:
            StorageError: a run is there already; it is left as it is.
        """
        folder = Folder.at(url)
        if folder.exists(RUN_FILE):
            raise StorageError(
                f"There is a run at {folder.url!r} already.",
                "A new run starts in a folder of its own.",
                "Go on with `--resume`, or choose another `--out`.",
            )
        run_id = f"{recipe.name}-{uuid.uuid4().hex[:8]}"
        folder.write_bytes(RECIPE_FILE, dump_recipe(recipe).encode())
        facts = {"format_version": FORMAT_VERSION, "run_id": run_id, "created": time.time()}
        folder.write_json(RUN_FILE, {**facts, "data": data})
        return cls(folder, run_id, recipe, data)

    @staticmethod
    def is_at(url: str) -> bool:
        """Return whether a run was started in the folder at ``url``."""
        return Folder.at(url).exists(RUN_FILE)

    @classmethod
    def open(cls, url: str, recipe: Recipe | None = None) -> "RunFolder":
        """Open a run to go on with it or to look at it.

        Args:
            url: The run's folder.
            recipe: Where given, it must be the recipe that the run was started with.

        Raises:
            StorageError: there is no run, its files were altered, or it is of another recipe or
                format version.
        """
        folder = Folder.at(url)
        if not folder.exists(RUN_FILE):
            raise StorageError(
                f"There is no run at {folder.url!r}.",
                f"A run's folder has a {RUN_FILE}.",
                "Start one with `fedkim run RECIPE --out DIR`.",
            )
        facts = folder.read_fields(RUN_FILE, _RunFacts)
        if facts["format_version"] != FORMAT_VERSION:
            raise StorageError(
                f"The run at {folder.url!r} has format version {facts['format_version']}.",
                f"This release reads version {FORMAT_VERSION}.",
                "Go on with the release that started it.",
            )
        own = _read_recipe(folder)
        if recipe is not None and recipe != own:
            raise StorageError(
                f"The run at {folder.url!r} was started with another recipe: "
                f"{', '.join(_differences(own, recipe))} differ.",
                "A run ends with the recipe it began with.",
                "Resume without naming a recipe, or choose another `--out`.",
            )
        return cls(folder, facts["run_id"], own, facts.get("data"))

    def require_data(self, data: Mapping[str, str]) -> None:
        """Refuse other data than the run began with; a run that does not say goes on with any.

        Args:
            data: ``DatasetCard.fingerprints`` of the data root as it is now.

        Raises:
            StorageError: naming the folders that changed.
        """
        began = self.data or data
        if changed := [place for place in data if began.get(place) != data[place]]:
            raise StorageError(
                f"The files of {', '.join(changed)} in {self.recipe.data.root!r} are not those "
                f"that the run at {self.folder.url!r} began with.",
                "A run ends with the data it began with.",
                "Restore the data root, or start again with an `--out` of its own.",
            )

    def aggregated(self, round_index: int) -> Folder:
        """Where the clients' round is published."""
        return aggregated_in(self.folder, round_index)

    def injected(self, round_index: int) -> Folder:
        """Where the round's injection is published."""
        return self.folder / f"rounds/{round_index:04d}/injected"

    def scores(self, round_index: int) -> Folder:
        """Where the clients' scores before and after the round's injection are published."""
        return self.folder / f"rounds/{round_index:04d}/scores"

    @property
    def bundle(self) -> Folder:
        """Where the finished model is published."""
        return self.folder / "bundle"

    @property
    def evaluation(self) -> Folder:
        """Where the finished model's scores lie."""
        return self.folder / "evaluation"

    def rounds_done(self) -> int:
        """Return the number of rounds whose injection is published."""
        done = 0
        while is_published(self.injected(done)):
            done += 1
        return done

    def log(self, event: Mapping[str, Any]) -> None:
        """Append an event to the run's log."""
        self.folder.append_line(LOG_FILE, json.dumps({"time": time.time(), **event}))

    def request_abort(self) -> None:
        """Leave the mark that ends the run's driver, wherever it runs."""
        self.folder.write_json(ABORT_FILE, {"time": time.time()})

    def abort_requested(self) -> bool:
        """Return whether the mark is there."""
        return self.folder.exists(ABORT_FILE)

    def forget_abort(self) -> None:
        """Take the mark away: the run goes on."""
        if self.abort_requested():
            self.folder.remove(ABORT_FILE)


def aggregated_in(run: Folder, round_index: int) -> Folder:
    """Where a clients' round is published in a run's folder."""
    return run / f"rounds/{round_index:04d}/aggregated"


def _read_recipe(folder: Folder) -> Recipe:
    """Return the recipe that a run was started with."""
    where = folder.full(RECIPE_FILE)
    try:
        values = yaml.safe_load(folder.read_bytes(RECIPE_FILE))
    except yaml.YAMLError as error:
        raise StorageError(
            f"{where!r} is not YAML: {str(error).replace(chr(10), ' ')}.",
            "The file is written whole or not at all, so it was altered afterwards.",
            "Restore it from a copy.",
        ) from None
    return parse_recipe(values, where)


def _differences(a: Recipe, b: Recipe) -> list[str]:
    """Return the sections that differ."""
    return [name for name in Recipe.model_fields if getattr(a, name) != getattr(b, name)]
