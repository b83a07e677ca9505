"""Looking at the machine that the tests run on, and at what the tiny recipe needs."""

import socket
from types import SimpleNamespace

import pytest

from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.doctor import machine
from fedkim_ray.doctor.machine import machine_facts, taken_ports
from fedkim_ray.doctor.needs import ADAM_COPIES, PROCESS_BYTES, needs_of
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder


def test_this_machine_has_what_the_project_asks_for() -> None:
    facts = machine_facts("here")
    assert facts.outside_range == ()
    assert facts.versions["torch"].startswith("2.13.0")
    assert 0 < facts.memory_free_bytes <= facts.memory_total_bytes


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, (64, 50)), ((2, 6), (6, 4)), ((7, 6), (6, 0)), ((2, 64), (64, 50))],
)
def test_a_containers_limit_is_its_memory(
    monkeypatch: pytest.MonkeyPatch, limit: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    host = SimpleNamespace(total=64, available=50)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: host)
    facts = machine.machine_facts("here", container=limit)  # used, in all
    assert (facts.memory_total_bytes, facts.memory_free_bytes) == expected


def test_the_disk_is_that_which_ray_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/spill": 3}
    monkeypatch.setattr(
        machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free.get(path, 9))
    )
    assert machine.machine_facts("here", "/spill").disk_free_bytes == 3
    assert machine.machine_facts("here").disk_free_bytes == 9


def test_a_port_that_somebody_listens_on_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert taken_ports([port]) == [port]
    assert taken_ports([port]) == []


def test_needs_are_counted_from_the_recipe_and_the_card(tiny_root: str) -> None:
    recipe = load_recipe("tiny", [f"data.root={tiny_root}"])
    card = read_card(Folder.at(tiny_root))
    trained = tuple(task for task in TASKS if task.role == "train")
    needs = needs_of(recipe, card, trained, find_base("tiny-random"), ["north", "south"])
    light = LightModel(recipe.encoders, card.spec, trained)
    floats = sum(value.numel() for value in light.params().values())
    assert 4 * floats < needs.global_model < 4 * floats + 20_000  # and safetensors' header
    # Two clients: down and up to train, down twice to score.
    assert needs.round_traffic == 2 * (2 + 2) * needs.global_model
    assert needs.client_memory["north"] > PROCESS_BYTES + ADAM_COPIES * needs.global_model
    without = load_recipe("tiny", [f"data.root={tiny_root}", "injection.adapter=none"])
    less = needs_of(without, card, trained, find_base("tiny-random"), [])
    # Six trained float32 of a LoRA are saved a run round: weights and two moments, two rounds.
    assert less.run_disk == 2 * 2 * needs.global_model
    assert needs.run_disk > less.run_disk


# A block of the tiny base: q and o 64x64, k and v 32x64, and three of 128x64. It has two.
def test_a_packed_base_needs_less(tiny_root: str) -> None:
    linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    card = read_card(Folder.at(tiny_root))
    memory = {}
    for packed in ("none", "8bit", "4bit"):
        recipe = load_recipe("tiny", [f"data.root={tiny_root}", f"base.quantization={packed}"])
        needs = needs_of(recipe, card, TASKS, find_base("tiny-random"), [])
        memory[packed] = needs.injection_memory
    assert memory["none"] - memory["8bit"] == (4 - 1) * linear
    assert (4 - 0.52) * linear < memory["none"] - memory["4bit"] < (4 - 0.5) * linear
