"""A recipe's names are held against the data before any work starts."""

import pytest

from fedkim_ray.errors import RecipeError
from fedkim_ray.pipeline import plan_run
from fedkim_ray.recipe_files import load_recipe


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "federation.client_resources={nort: {site_north: 1}}",
            r"client_resources names \['nort'\]\. It may name north, south\.",
        ),
        ("federation.client_selector={nort: {site: north}}", r"client_selector names \['nort'\]"),
        ("injection.task_weights={covid: 2}", r"task_weights names \['covid'\].*covid19"),
        ("injection.task_weights={sepsis: 2}", r"task_weights names \['sepsis'\]"),
        ("injection.tokens_per_modality={text: 2}", r"tokens_per_modality names \['text'\].*image"),
        ("data.clients=[]", r"data\.clients: .* at least 1 item"),
        ("data.tasks=[]", r"data\.tasks: .* at least 1 item"),
    ],
)
def test_a_setting_that_would_apply_to_nothing_is_refused(
    tiny_root: str, override: str, text: str
) -> None:
    with pytest.raises(RecipeError, match=text):
        plan_run(load_recipe("tiny", [f"data.root={tiny_root}", override]))


def test_what_a_run_leaves_out_may_have_settings(tiny_root: str) -> None:
    sets = [
        "data.clients=[south]",
        "data.tasks=[mortality]",
        "encoders.groups={icu: [lab, vital]}",
        "federation.client_selector={north: {site: north}}",
        "injection.task_weights={covid19: 2}",
        "injection.tokens_per_modality={icu: 2, image: 2}",
    ]
    plan = plan_run(load_recipe("tiny", [f"data.root={tiny_root}", *sets]))
    assert [*plan.tasks_by_client] == ["south"]
