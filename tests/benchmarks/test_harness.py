"""The benchmarks' arithmetic, with times given by hand."""

from benchmarks.harness import Timing, interleave


def test_cases_take_turns_and_the_warm_up_is_thrown_away() -> None:
    order: list[str] = []
    cases = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    timings = interleave(cases, repeats=2, warmup=1)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [len(t.seconds) for t in timings.values()] == [2, 2]


# The machine was twice as slow in the second repetition: 4/2, 8/4 and 9/3 are 2, 2 and 3.
def test_a_ratio_is_taken_within_repetitions() -> None:
    slow, fast = Timing((4.0, 8.0, 9.0)), Timing((2.0, 4.0, 3.0))
    assert slow.ratio_to(fast) == 2.0
    assert slow.median_s == 8.0
    assert slow.median_added_s(fast) == 4.0  # of 2, 4 and 6
