"""Median, trimmed mean and Krum: five clients, one of whom lies."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from fedkim_ray.config import FederationConfig
from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.aggregation import Strategy
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.strategies.krum import Krum, krum_choice, squared_distances
from fedkim_ray.federation.strategies.median import Median
from fedkim_ray.federation.strategies.trimmed_mean import TrimmedMean
from fedkim_ray.federation.update import ClientUpdate

IMAGE, LAB = "encoders.image.w", "encoders.lab.w"
THETA = {IMAGE: torch.tensor([[10.0, 20.0]]), LAB: torch.tensor([5.0])}
HONEST = ([1.0, 0.0], [2.0, 1.0], [3.0, 2.0], [4.0, 3.0])
LIAR = [1e6, -1e6]


def image_updates(deltas: Sequence[Sequence[float]], num_examples: int = 1) -> list[ClientUpdate]:
    return [
        ClientUpdate(
            client_id=f"c{k}",
            round_index=0,
            delta={IMAGE: torch.tensor([delta])},
            num_examples={"encoders.image": num_examples},
            metrics={},
        )
        for k, delta in enumerate(deltas)
    ]


def change(strategy: Strategy, updates: Sequence[ClientUpdate]) -> list[float]:
    """Return the step that the strategy takes from theta in the image group."""
    return (strategy.apply(strategy.init(THETA), updates).params[IMAGE] - THETA[IMAGE])[0].tolist()


def test_the_median_is_the_middle_of_each_coordinate() -> None:
    # Sorted: 1 2 [3] 4 1e6 and -1e6 0 [1] 2 3.
    assert change(Median(), image_updates([*HONEST, LIAR])) == [3.0, 1.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert change(Median(), image_updates(HONEST)) == [2.5, 1.5]


def test_the_trimmed_mean_cuts_a_share_at_each_end() -> None:
    # floor(0.2 * 5) = 1 at each end: the mean of 2 3 4 and of 0 1 2.
    assert change(TrimmedMean(beta=0.2), image_updates([*HONEST, LIAR])) == [3.0, 1.0]
    # floor(0.0 * 4) = 0: nothing is cut.
    assert change(TrimmedMean(beta=0.0), image_updates(HONEST)) == [2.5, 1.5]


@pytest.mark.parametrize(
    ("strategy", "needed"),
    # The least K with floor(beta * K) >= 1; 1 / 0.49 = 2.04.
    [
        (Median(), 3),
        *(
            (TrimmedMean(beta=b), k)
            for b, k in ((0.0, 1), (0.1, 10), (0.2, 5), (0.3, 4), (0.49, 3))
        ),
    ],
    ids=str,
)
def test_one_liar_among_the_fewest_moves_nothing_far(strategy: Strategy, needed: int) -> None:
    assert strategy.min_updates == needed
    if needed > 1:
        assert change(strategy, image_updates([*[[1.0, 1.0]] * (needed - 1), LIAR])) == [1.0, 1.0]
        with pytest.raises(RoundFailedError, match=f"{needed - 1} updates of 'encoders.image'"):
            change(strategy, image_updates([[1.0, 1.0]] * (needed - 1)))


def test_the_share_is_not_lost_to_rounding() -> None:
    deltas_KN = torch.arange(10.0).square().reshape(10, 1)
    # 0.3 * 10 is 2.9999999999999996 or 3: three at each end leave 9, 16, 25, 36.
    assert TrimmedMean(beta=0.3).combine(deltas_KN).item() == (9 + 16 + 25 + 36) / 4


def test_krum_takes_the_client_with_the_nearest_neighbours() -> None:
    # n = 5, f = 1: two nearest each. Squares of steps (1, 1), (2, 2) are 2 and 8, so that the
    # inner two score 2 + 2 and the outer two 2 + 8; of the inner two the first is taken.
    assert change(Krum(num_faulty=1), image_updates([*HONEST, LIAR])) == [2.0, 1.0]


def test_krums_distances_run_over_all_parameters_of_a_group() -> None:
    updates = [
        ClientUpdate(
            client_id=str(k),
            round_index=0,
            delta={"encoders.image.w": torch.tensor([x]), "encoders.image.b": torch.tensor([y])},
            num_examples={"encoders.image": 1},
            metrics={},
        )
        for k, (x, y) in enumerate([(0.0, 0.0), (3.0, 4.0)])
    ]
    D_KK = squared_distances(updates, ["encoders.image.w", "encoders.image.b"])
    assert D_KK.tolist() == [[0.0, 25.0], [25.0, 0.0]]


def test_krum_does_not_count_a_client_as_its_own_neighbour() -> None:
    # Points 0, 5, 6 and f = 0: the nearest one counts, 25, 1 and 1. Itself would make it 0 for all.
    x_K = torch.tensor([0.0, 5.0, 6.0])
    assert krum_choice((x_K[:, None] - x_K[None, :]).square(), num_faulty=0) == 1


@pytest.mark.parametrize("num_updates", [1, 4])
def test_krum_refuses_fewer_than_2f_plus_3(num_updates: int) -> None:
    with pytest.raises(RoundFailedError, match=rf"{num_updates} updates of 'encoders.image'.* 5;"):
        change(Krum(num_faulty=1), image_updates([[1.0, 1.0]] * num_updates))


ROBUST = [Median(), TrimmedMean(beta=0.2), Krum(num_faulty=1)]


@pytest.mark.parametrize("strategy", ROBUST, ids=lambda s: type(s).__name__)
def test_a_client_without_a_group_neither_adds_to_it_nor_dilutes_it(strategy: Strategy) -> None:
    updates = image_updates([[1.0, 1.0]] * 5)
    idle = image_updates([LIAR] * 3, num_examples=0)
    assert change(strategy, [*idle, *updates]) == [1.0, 1.0]
    state = strategy.apply(strategy.init(THETA), updates)
    assert state.params[LAB].tolist() == [5.0]


@pytest.mark.parametrize("strategy", ROBUST, ids=lambda s: type(s).__name__)
def test_a_stated_number_of_examples_buys_no_influence(strategy: Strategy) -> None:
    loud = image_updates([LIAR], num_examples=10**9)
    assert change(strategy, [*image_updates([[1.0, 1.0]] * 4), *loud]) == [1.0, 1.0]


class OneAtATime(dict[str, torch.Tensor]):
    """Tensors that know how many of them were read."""

    reads: list[str]

    def __getitem__(self, name: str) -> torch.Tensor:
        self.reads.append(name)
        return super().__getitem__(name)

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:  # type: ignore[override]
        """Refuse: it would read everything."""
        raise AssertionError("All tensors of an update were read at once.")


@pytest.mark.parametrize("strategy", ROBUST, ids=lambda s: type(s).__name__)
def test_updates_are_read_parameter_by_parameter(strategy: Strategy) -> None:
    names = ["encoders.image.b", "encoders.image.w"]
    reads: list[str] = []
    updates = []
    for k in range(5):
        delta = OneAtATime({name: torch.ones(1) for name in names})
        delta.reads = reads
        updates.append(
            ClientUpdate(
                client_id=str(k),
                round_index=0,
                delta=delta,
                num_examples={"encoders.image": 1},
                metrics={},
            )
        )
    strategy.apply(strategy.init({name: torch.zeros(1) for name in names}), updates)
    first = reads[: reads.index(names[1])]
    assert set(first) == {names[0]}
    assert len(first) == 5


@pytest.mark.parametrize(
    ("config", "strategy"),
    [
        ({"name": "median"}, Median()),
        ({"name": "trimmed_mean", "beta": 0.1}, TrimmedMean(beta=0.1)),
        ({"name": "krum", "num_faulty": 2}, Krum(num_faulty=2)),
    ],
)
def test_a_recipe_names_its_strategy(config: dict[str, object], strategy: Strategy) -> None:
    assert build_strategy(FederationConfig(strategy=config).strategy) == strategy  # type: ignore[arg-type]
