"""What the doctor says that a run needs, against what a dry run says."""

from fedkim_ray.doctor.needs import DECODED, needs_of
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.sizing import CONTROL_BYTES, size_client
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.pipeline import plan_run
from fedkim_ray.recipe_files import load_recipe

MIB = 2**20


def test_a_clients_memory_is_the_dry_runs_and_four_times_its_files(tiny_root: str) -> None:
    recipe = load_recipe("tiny", [f"data.root={tiny_root}"])
    plan = plan_run(recipe)
    needs = needs_of(recipe, plan.card, plan.trained, find_base(recipe.base.name), ["north"])
    light = LightModel(recipe.encoders, plan.card.spec, plan.trained)
    size = size_client(light, "north", plan.tasks_by_client["north"], {})
    files = plan.card.files.items()
    data = sum(fact.size_bytes for name, fact in files if name.startswith("clients/north/"))
    assert data > 0
    assert needs.client_memory == {"north": size.worker_bytes + CONTROL_BYTES + DECODED * data}


# Six copies of 4-byte numbers beside a worker of 350 MiB.
def test_a_clients_worker_holds_six_copies_of_the_parameters(tiny_root: str) -> None:
    recipe = load_recipe("tiny", [f"data.root={tiny_root}"])
    plan = plan_run(recipe)
    light = LightModel(recipe.encoders, plan.card.spec, plan.trained)
    num_parameters = sum(p.numel() for p in light.parameters())
    size = size_client(light, "north", plan.tasks_by_client["north"], {})
    assert size.worker_bytes == 350 * MIB + 24 * num_parameters
