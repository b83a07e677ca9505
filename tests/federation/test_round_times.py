"""A clock that is moved by hand."""

from fedkim_ray.federation.round_times import RoundTimes


def test_every_second_counts_once_and_the_inner_phase_wins() -> None:
    now = [0.0]
    times = RoundTimes(lambda: now[0])
    now[0] = 1.0
    with times.phase("train"):
        now[0] = 3.0
        with times.phase("collect"):
            now[0] = 3.5
        now[0] = 4.0
    now[0] = 6.0
    assert times.seconds == {"aggregate": 1.0 + 2.0, "train": 2.0 + 0.5, "collect": 0.5}


def test_the_wait_for_the_slowest_is_counted_from_the_median_answer() -> None:
    now = [0.0]
    times = RoundTimes(lambda: now[0])

    def answers():
        for now[0] in (1.0, 2.0, 9.0):
            yield now[0]

    for _ in times.waiting_for(answers()):
        now[0] += 0.25  # folded meanwhile
    assert times.slowest_wait_s == 9.25 - 2.0


def test_nobody_answered_nobody_was_waited_for() -> None:
    times = RoundTimes(lambda: 0.0)
    assert times.slowest_wait_s == 0.0
