"""The packaged recipes: the paper's figures, and what the method and a cluster ask of them."""

from fedkim_ray.recipe_files import load_recipe


def test_the_papers_recipe_has_the_papers_figures() -> None:
    recipe = load_recipe("paper")
    injection, m3oe = recipe.injection, recipe.injection.m3oe
    assert (m3oe.num_experts, m3oe.rank, m3oe.lora_alpha, m3oe.dropout) == (12, 8, 32, 0.1)
    assert m3oe.target_modules == "all"
    assert (injection.lr, injection.betas, injection.warmup_fraction) == (5e-4, (0.9, 0.95), 0.1)
    assert (injection.batch_size, injection.gradient_clip) == (16, 1.0)
    local = recipe.federation.local
    assert (recipe.federation.rounds, local.epochs, local.batch_size, local.lr) == (10, 1, 64, 1e-4)
    assert recipe.federation.strategy.model_dump() == {"name": "fedavg"}
    fedprox = load_recipe("paper", variant="fedkim_fedprox").federation.strategy
    assert fedprox.model_dump() == {"name": "fedprox", "mu": 1e-6}
    assert recipe.encoders.image.dim == 192
    assert recipe.encoders.groups == {"icu": ("lab", "vital", "input", "output")}
    assert recipe.evaluation.bootstrap_samples == 1000


def test_the_clusters_recipe_pins_every_client_and_shards_the_base() -> None:
    recipe = load_recipe("cluster")
    pins = recipe.federation.client_resources
    assert set(pins) == set(recipe.data.clients or ())
    assert len({name for wanted in pins.values() for name in wanted}) == len(pins)
    assert recipe.injection.zero_stage == 3
