"""What is said when clients cannot be placed."""

import pytest

from fedkim_ray.federation.resources import fits, missing_labels, missing_resources


def test_what_is_short_is_named_with_what_there_is() -> None:
    demands = {"north": {"CPU": 1.0, "client:north": 0.01}, "south": {"CPU": 1.5}}
    text = missing_resources(demands, {"CPU": 2.0}, {"CPU": 2.0})
    assert text == (
        "All clients together need CPU 2.5 (the cluster has 2), "
        "client:north 0.01 (the cluster has 0)."
    )


def test_what_others_hold_is_told_where_the_whole_suffices() -> None:
    text = missing_resources({"north": {"CPU": 1.0}}, {"CPU": 2.0}, {"CPU": 0.5})
    assert text == "The cluster has enough in all; free now: CPU 0.5."


@pytest.mark.parametrize(
    ("condition", "north", "unlabelled"),
    [
        ("north", True, False),
        ("!north", False, True),
        ("in(north, south)", True, False),
        ("!in(north,south)", False, True),
        ("in(south)", False, False),
    ],
)
def test_a_selector_is_read_as_ray_reads_it(condition: str, north: bool, unlabelled: bool) -> None:
    assert fits({"site": condition}, {"site": "north"}) == north
    assert fits({"site": condition}, {}) == unlabelled


def test_who_finds_no_node_is_named_with_what_it_asks_for() -> None:
    selectors = {"north": {"site": "north"}, "south": {"site": "south"}}
    [text] = missing_labels(selectors, [{}, {"site": "north", "disk": "ssd"}])
    assert text == "No node has the labels {'site': 'south'} that 'south' asks for."
