"""When newcomers join: at once where few are under way, together where many are."""

from serve.joining import Joining


def test_a_quarter_of_those_under_way_goes_in_at_once() -> None:
    assert Joining().now(1, 0)
    assert Joining().now(1, 4)
    assert not Joining().now(1, 5)
    assert Joining().now(3, 12)
    assert not Joining().now(2, 12)
    assert not Joining().now(0, 0)


def test_nobody_waits_longer_than_four_steps() -> None:
    joining = Joining()
    assert [joining.now(1, 12) for _ in range(6)] == [False, False, False, False, True, False]


def test_a_wait_is_forgotten_once_nobody_waits() -> None:
    joining = Joining()
    for _ in range(4):
        joining.now(1, 12)
    assert not joining.now(0, 12)
    assert not joining.now(1, 12)
