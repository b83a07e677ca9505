"""What is said when clients cannot be placed."""

from fedkim_ray.federation.resources import missing_resources


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
