"""Recipes as YAML: packaged ones and a user's own, with variants and overrides.

``load_recipe("demo", ["federation.rounds=3"])`` reads, overrides and validates.
"""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedkim_ray.config import VARIANTS, Recipe
from fedkim_ray.errors import RecipeError


def packaged_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    folder = resources.files("fedkim_ray") / "recipes"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), variant: str = "fedkim"
) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        name_or_path: A packaged recipe's name, or a path to a YAML file.
        overrides: ``a.b=value`` each, the value in YAML.
        variant: A key of ``VARIANTS``, applied before the overrides.

    Raises:
        RecipeError: there is no such recipe, variant or field, or a value is impossible.
    """
    if variant not in VARIANTS:
        raise RecipeError(
            f"There is no variant {variant!r}.",
            f"The variants are {', '.join(VARIANTS)}.",
            "`base` trains nothing: ask it with `fedkim evaluate BUNDLE --base`.",
        )
    values = _read_yaml(name_or_path)
    if variant != "fedkim":
        values["variant"] = variant
    for override in (*VARIANTS[variant], *overrides):
        _apply_override(values, override)
    return _with_whole_paths(parse_recipe(values, name_or_path))


def _with_whole_paths(recipe: Recipe) -> Recipe:
    """Make local paths absolute: workers and whoever resumes a run have other working folders."""
    root, base = recipe.data.root, recipe.base.name
    data = recipe.data.model_copy(
        update={"root": root if "://" in root else str(Path(root).absolute())}
    )
    folder = str(Path(base).absolute()) if Path(base).is_dir() else base
    return recipe.model_copy(
        update={"data": data, "base": recipe.base.model_copy(update={"name": folder})}
    )


def parse_recipe(values: Any, where: str) -> Recipe:
    """Validate a recipe's plain values.

    Raises:
        RecipeError: a field is unknown or a value impossible; the text names each.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']} (came {_short(e['input'])})"
            for e in error.errors()
        )
        raise RecipeError(
            f"Recipe {where!r} cannot be used: {problems}.",
            "Every field and its meaning is in fedkim_ray/config.py.",
            "Correct the recipe or the --set override.",
        ) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that ``load_recipe`` reads back to an equal value."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False)


def _read_yaml(name_or_path: str) -> dict[str, Any]:
    packaged = resources.files("fedkim_ray") / "recipes" / f"{name_or_path}.yaml"
    source = packaged if packaged.is_file() else Path(name_or_path)
    if not source.is_file():
        raise RecipeError(
            f"There is no recipe {name_or_path!r}.",
            f"Packaged recipes are {', '.join(packaged_recipes())}; else give the path of a file.",
            "Check the spelling.",
        )
    try:
        values = yaml.safe_load(source.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(
            f"Recipe {name_or_path!r} is not YAML: {str(error).replace(chr(10), ' ')}.",
            "A recipe is a YAML mapping.",
            "Correct the line that is named.",
        ) from None
    if not isinstance(values, dict):
        raise RecipeError(
            f"Recipe {name_or_path!r} holds {_short(values)}.",
            "A recipe is a YAML mapping.",
            "Start from a packaged recipe, see `fedkim recipes`.",
        )
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"Override {override!r} has no '='.",
            "An override is written a.b=value.",
            "For example --set federation.rounds=3.",
        )
    *parents, last = path.split(".")
    node = values
    for key in parents:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise RecipeError(
                f"Override {override!r} goes through {key!r}, which is not a mapping.",
                "Each name before the last leads to a mapping.",
                "Compare the recipe's layout.",
            )
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(
            f"Override {override!r} has a value that is not YAML.",
            "Values are written as in a recipe.",
            "Quote the value for the shell.",
        ) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
