"""Verdicts from hand-made facts."""

from collections.abc import Sequence

import pytest

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.facts import ClientFacts, MachineFacts, NodeFacts, SilentNode
from fedkim_ray.doctor.findings import GIB, Finding, exit_code, size, worst_first
from fedkim_ray.doctor.judgement import (
    judge_client,
    judge_machine,
    judge_needs,
    judge_nodes,
    judge_place,
    judge_run_folder,
    judge_silent,
)
from fedkim_ray.doctor.needs import Needs
from fedkim_ray.doctor.places import INJECTION, Place, places_of
from fedkim_ray.recipe_files import load_recipe

NEEDS = Needs(
    global_model=100,
    round_traffic=400,
    client_memory={"north": GIB, "south": GIB},
    injection_memory=2 * GIB,
    run_disk=1000,
)


def machine(**changes: object) -> MachineFacts:
    facts: dict[str, object] = {
        "address": "10.0.0.1",
        "versions": {"ray": "2.60.0", "torch": "2.13.0", "deepspeed": "0.19.8"},
        "outside_range": (),
        "num_cpus": 4,
        "memory_total_bytes": 8 * GIB,
        "memory_free_bytes": 4 * GIB,
        "disk_free_bytes": 100 * GIB,
        "compiler": "/usr/bin/c++",
        "num_gpus": 0,
        "nccl": "",
        "user_id": 1000,
    }
    return MachineFacts.model_validate(facts | changes)


def node(ahead_s: float = 0.0, run_problem: str = "", **changes: object) -> NodeFacts:
    return NodeFacts(
        machine=machine(**changes),
        clock_ahead_s=ahead_s,
        clock_error_s=0.01,
        asks_token=True,
        run_problem=run_problem,
    )


def has(cpus: float, **labels: str) -> NodeFacts:
    return node().model_copy(update={"resources": {"CPU": cpus}, "labels": labels})


def placement(
    recipe: Recipe, nodes: Sequence[NodeFacts], *to_come: dict[str, float]
) -> dict[str, str]:
    places = places_of(recipe, ["north", "south"])
    found = [judge_place(place, nodes, to_come) for place in places]
    return {finding.where: finding.level for finding in found}


def levels(findings: Sequence[Finding], check: str) -> list[str]:
    return [finding.level for finding in findings if finding.check == check]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    pin = "federation.client_resources={north: {hospital_north: 1}}"
    return load_recipe("tiny", ["federation.client_timeout_s=100", pin])


def test_a_package_out_of_range_fails_and_a_full_disk_warns() -> None:
    assert exit_code(judge_machine(machine())) == 0
    bad = judge_machine(
        machine(outside_range=("torch 2.12.0 (wants ==2.13.0)",), disk_free_bytes=1)
    )
    assert levels(bad, "versions") == ["fail"]
    assert levels(bad, "disk") == ["warn"]
    assert exit_code(bad) == 1
    assert [finding.level for finding in worst_first(bad)][:2] == ["fail", "warn"]


def test_nodes_are_held_against_the_first_and_against_our_clock() -> None:
    other = {"ray": "2.60.0", "torch": "2.12.0", "deepspeed": "0.19.8"}
    cuda = other | {"torch": "2.13.0+cu130"}  # another build of the same release
    found = judge_nodes([node(), node(ahead_s=-5.0, versions=other), node(versions=cuda)])
    assert levels(found, "same versions") == ["ok", "fail", "ok"]
    assert levels(found, "clock") == ["ok", "warn", "ok"]
    assert any("torch 2.12.0 (not 2.13.0)" in finding.came for finding in found)


def test_the_driver_and_an_injection_worker_must_write_the_run_folder() -> None:
    closed = node(run_problem="PermissionError")
    head = node().model_copy(update={"drives": True})
    no_head = head.model_copy(update={"run_problem": "PermissionError"})
    injects = {"labels": {"role": "injection"}}
    apart, shut = node().model_copy(update=injects), closed.model_copy(update=injects)
    role = Place(who=INJECTION, labels={"role": "injection"})
    for nodes, expected in [
        ([head, node(), apart], []),
        ([head, closed, apart], ["warn"]),  # a client's
        ([head, apart, shut], ["warn"]),  # one of two
        ([head, node(), shut], ["fail"]),
        ([no_head, apart], ["fail"]),
    ]:
        assert [found.level for found in judge_run_folder(nodes, role)] == expected
    assert [found.level for found in judge_run_folder([head, closed], Place(who=INJECTION))] == [
        "warn"
    ]


def test_a_node_that_asks_for_no_token_is_told() -> None:
    exposed = node(address="10.0.0.9").model_copy(update={"asks_token": False})
    for nodes, level in [
        ([node(), node()], "ok"),
        ([exposed], "ok"),  # this machine's own Ray
        ([node(), exposed], "warn"),
    ]:
        assert levels(judge_nodes(nodes), "authentication") == [level]
    assert any("off at 10.0.0.9:" in f.came for f in judge_nodes([node(), exposed]))


# 100 s in all: 24 s of transfer are within a quarter of it, 26 s are not, 101 s are too many.
@pytest.mark.parametrize(("down_s", "level"), [(20.0, "ok"), (22.0, "warn"), (97.0, "fail")])
def test_the_line_is_judged_by_what_it_leaves_of_the_deadline(
    recipe: Recipe, down_s: float, level: str
) -> None:
    facts = ClientFacts(client="north", node="10.0.0.2", down_s=down_s, up_s=4.0)
    found = judge_client(facts, recipe, NEEDS)
    assert levels(found, "bandwidth") == [level]
    [line] = [finding for finding in found if finding.check == "bandwidth"]
    assert f"{100 - down_s - 4:.0f} s of client_timeout_s are left" in line.came
    if level == "warn":  # 26 s / 0.25
        assert "client_timeout_s to 104" in line.remedy


def test_a_node_where_nothing_starts_fails_by_its_name() -> None:
    [found] = judge_silent([SilentNode(address="10.0.0.9", problem="No module named 'fedkim_ray'")])
    assert (found.level, found.where) == ("fail", "10.0.0.9")
    assert "No module named 'fedkim_ray'" in found.came
    assert judge_nodes([]) == []


# Each step is judged by itself: what came before it was seen, what comes after it was not.
@pytest.mark.parametrize(
    ("failed", "checks"),
    [
        ("placement", {"placement": "fail"}),
        ("storage", {"storage": "fail"}),
        ("privacy", {"storage": "ok", "privacy": "warn"}),
        ("bandwidth", {"storage": "ok", "privacy": "ok", "bandwidth": "fail"}),
    ],
)
def test_a_look_that_ends_early_says_at_which_step(
    recipe: Recipe, failed: str, checks: dict[str, str]
) -> None:
    facts = {"client": "north", "node": "n", "failed": failed, "problem": "no answer in time"}
    found = judge_client(ClientFacts.model_validate(facts), recipe, NEEDS)
    assert {finding.check: finding.level for finding in found} == checks
    assert found[-1].came.endswith(": no answer in time")


def test_a_client_nobody_can_take_and_data_that_others_can_read(recipe: Recipe) -> None:
    [nowhere] = judge_client(ClientFacts(client="north", failed="placement"), recipe, NEEDS)
    assert nowhere.level == "fail"
    assert "hospital_north" in nowhere.came
    there = ClientFacts(
        client="north", node="n", data_problem="PermissionError", readable_others=("south",)
    )
    found = judge_client(there, recipe, NEEDS)
    assert levels(found, "storage") == ["fail"]
    assert levels(found, "privacy") == ["warn"]


def test_memory_is_held_against_all_nodes(recipe: Recipe) -> None:
    # The clients take 1 GiB each and injection 2: 4 of 4 GiB.
    assert levels(judge_needs(NEEDS, [node()], recipe, 0), "memory for the run") == ["ok"]
    one_slot = ["federation.execution=pooled", "federation.num_slots=1"]
    pooled = load_recipe("tiny", one_slot)  # one client of 1 GiB at a time, and injection's 2
    less = [node(memory_free_bytes=3 * GIB)]
    assert levels(judge_needs(NEEDS, less, recipe, 0), "memory for the run") == ["warn"]
    assert levels(judge_needs(NEEDS, less, pooled, 0), "memory for the run") == ["ok"]
    shared = [*less, *less]  # two nodes of one host have its 3 GiB between them
    assert levels(judge_needs(NEEDS, shared, recipe, 0), "memory for the run") == ["warn"]
    apart = [*less, node(address="10.0.0.2", memory_free_bytes=3 * GIB)]
    assert levels(judge_needs(NEEDS, apart, recipe, 0), "memory for the run") == ["ok"]
    small = [node(memory_free_bytes=GIB), node(memory_free_bytes=GIB)]
    assert levels(judge_needs(NEEDS, small, recipe, 0), "memory for the run") == ["warn"]


@pytest.mark.parametrize(("gpus", "level"), [(0, "fail"), (1, "fail"), (2, "ok")])
def test_gpus_that_an_autoscaler_may_add_count_as_they_do_for_the_run(
    gpus: int, level: str
) -> None:
    wants = load_recipe("tiny", ["injection.use_gpu=true", "injection.num_workers=2"])
    found = judge_needs(NEEDS, [node(num_gpus=0)], wants, gpus)
    assert levels(found, "gpus for the run") == [level]
    [line] = [finding for finding in found if finding.check == "gpus for the run"]
    assert line.came == f"{gpus} there or to come, 2 wanted"


# Two sites of 2 CPUs and an injection node of 16: 20 CPUs in all, and no room for 4 on a site.
def test_what_each_worker_reserves_must_be_on_one_node() -> None:
    north, south = (has(2, site=site) for site in ("north", "south"))
    nodes = [north, south, has(16, role="injection")]
    select = "federation.client_selector={north: {site: north}, south: {site: south}}"
    wanted = ["injection.cpus_per_worker=8", "injection.worker_selector={role: injection}", select]
    fitting = load_recipe("tiny", wanted)
    too_large = load_recipe("tiny", [*wanted, "federation.cpus_per_client=4"])
    assert placement(fitting, nodes) == {"north": "ok", "south": "ok", INJECTION: "ok"}
    assert placement(too_large, nodes) == {"north": "fail", "south": "fail", INJECTION: "ok"}
    assert placement(too_large, nodes, {"CPU": 8})["north"] == "warn"  # what may come holds it
    assert placement(too_large, nodes, {"CPU": 2})["north"] == "fail"
    [first, *_] = [judge_place(place, nodes, []) for place in places_of(too_large, ["north"])]
    assert "0 of 1, each on one node: CPU 4, site=north" in first.came


def test_workers_may_stand_on_nodes_of_their_own() -> None:
    four = ["injection.num_workers=4", "injection.cpus_per_worker=3", "injection.batch_size=4"]
    recipe = load_recipe("tiny", four)
    assert placement(recipe, [has(6), has(7)])[INJECTION] == "ok"  # two on each
    assert placement(recipe, [has(11), has(2)])[INJECTION] == "fail"  # 13 CPUs, room for three
    apart = load_recipe("tiny", ["injection.worker_selector={site: '!in(north, south)'}"])
    assert placement(apart, [has(8, site="north")])[INJECTION] == "fail"
    assert placement(apart, [has(8, site="north"), has(1)])[INJECTION] == "ok"


def test_a_slot_needs_room_and_a_plain_loop_needs_none() -> None:
    four = ["federation.cpus_per_client=4", "federation.execution=pooled"]
    assert placement(load_recipe("tiny", four), [has(2)]) == {"a slot": "fail", INJECTION: "ok"}
    loop = load_recipe("tiny", ["federation.cpus_per_client=4", "federation.execution=local"])
    assert placement(loop, [has(2)]) == {INJECTION: "ok"}


def test_sizes_for_people() -> None:
    assert size(3 * GIB / 2) == "1.5 GiB"
    assert size(512 * 1024) == "0.5 MiB"
