"""Recipes: what is refused, and what survives a round trip."""

from pathlib import Path

import pytest

from fedkim_ray.config import VARIANTS
from fedkim_ray.errors import RecipeError
from fedkim_ray.recipe_files import dump_recipe, load_recipe, packaged_recipes

SMALLEST = "{name: mine, data: {root: /data}, base: {name: tiny-random}}"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """Path of the smallest recipe there is."""
    path = tmp_path / "mine.yaml"
    path.write_text(SMALLEST)
    return str(path)


def test_the_defaults_are_the_papers(recipe: str) -> None:
    r = load_recipe(recipe)
    assert (r.injection.m3oe.num_experts, r.injection.m3oe.rank) == (12, 8)
    assert (r.federation.rounds, r.federation.local.lr) == (10, 1e-4)
    assert r.injection.betas == (0.9, 0.95)


def test_an_override_changes_one_value(recipe: str) -> None:
    r = load_recipe(recipe, ["federation.rounds=3", "federation.strategy={name: fedprox, mu: 0.5}"])
    assert r.federation.rounds == 3
    assert r.federation.strategy.model_dump() == {"name": "fedprox", "mu": 0.5}


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("federation.round=3", r"federation\.round: Extra inputs are not permitted \(came 3\)"),
        ("federation.rounds=0", r"federation\.rounds: .*greater than 0 \(came 0\)"),
        ("federation.rounds=many", r"federation\.rounds: .*integer.*\(came 'many'\)"),
        ("federation.strategy={name: fedsgd}", "fedsgd"),
        ("injection.gradient_accumulation=3", "does not divide"),
        ("name=a b", "name: String should match"),
        ("encoders.image={dim: 32, num_heads: 3}", r"encoders\.image: .*dim 32 does not divide"),
        ("encoders.series={dim: 9, num_heads: 2}", r"encoders\.series: .*dim 9 does not divide"),
        ("encoders.signal.channels=12", r"signal\.channels: .*multiple of 8 \(came 12\)"),
        ("encoders.groups={icu.stay: [lab, vital]}", r"groups\.icu\.stay.*: String should match"),
        ("injection.m3oe.router.top_k=1", r"top_k 1 trains no router.* keep 2 or more"),
        ("injection.m3oe.target_modules=[]", r"m3oe\.target_modules.*: .*at least 1 item"),
        ("injection.betas=[0.9, 1.0]", r"injection\.betas\.1: .*less than 1 \(came 1\.0\)"),
        ("seed=1720000000000000000", r"seed: .*less than or equal to 4294967295 \(came 172"),
        ("federation.rounds", "has no '='"),
        ("name.first=x", "goes through 'name', which is not a mapping"),
        ("federation.rounds={", "a value that is not YAML"),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, override: str, text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        load_recipe(recipe, [override])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[1, 2]", r"holds \[1, 2\]"),
        ("name: [", "is not YAML"),
        ("{name: x}", "data: Field required.*base: Field required"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=text):
        load_recipe(str(path))


def test_an_unknown_recipe_or_variant_names_those_there_are(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'tinny'.*tiny"):
        load_recipe("tinny")
    with pytest.raises(RecipeError, match=r"no variant 'fedkimm'.*fedkim"):
        load_recipe(recipe, variant="fedkimm")


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_a_recipe_and_says_so(recipe: str, variant: str) -> None:
    assert load_recipe(recipe, variant=variant).variant == variant


def test_variants_change_what_they_are_named_after(recipe: str) -> None:
    assert load_recipe(recipe, variant="fedplug").injection.adapter == "none"
    assert load_recipe(recipe, variant="fedplug_l").injection.adapter == "lora"
    assert load_recipe(recipe, variant="public_only").federation.clients_train is False
    assert load_recipe(recipe, variant="no_task").injection.m3oe.router.key_value_from == "modality"
    assert load_recipe(recipe, variant="no_modality").injection.m3oe.router.query_from == "task"


def test_an_override_wins_over_the_variant(recipe: str) -> None:
    r = load_recipe(recipe, ["injection.adapter=m3oe"], variant="fedplug")
    assert r.injection.adapter == "m3oe"


def test_a_recipe_comes_back_from_its_dump(recipe: str, tmp_path: Path) -> None:
    first = load_recipe(recipe, ["data.clients=[north]"], variant="fedkim_fedprox")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_recipe(first))
    assert load_recipe(str(path)) == first


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name


def test_a_recipe_cannot_be_changed(recipe: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(recipe).seed = 3  # type: ignore[misc]


def test_local_paths_are_absolute_and_urls_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    local = load_recipe("tiny", ["data.root=here/data", "base.name=llama"])
    assert local.data.root == str(tmp_path / "here/data")
    assert local.base.name == str(tmp_path / "llama")
    remote = load_recipe("tiny", ["data.root=s3://bucket/data", "base.name=org/model"])
    assert (remote.data.root, remote.base.name) == ("s3://bucket/data", "org/model")
