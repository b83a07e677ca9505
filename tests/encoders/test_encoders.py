"""Each encoder alone: shapes, masks, and the layers it may be made of."""

import pytest
import torch
from torch import nn

from fedkim_ray.encoders.heads import masked_mean, scatter_rows
from fedkim_ray.encoders.image import ImageEncoder
from fedkim_ray.encoders.signal import SignalEncoder
from fedkim_ray.encoders.time_series import TimeSeriesEncoder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def image_encoder() -> ImageEncoder:
    return ImageEncoder(size_px=16, patch_px=4, dim=24, depth=2, num_heads=3, dropout=0.1).eval()


def signal_encoder() -> SignalEncoder:
    return SignalEncoder(num_leads=2, dim=24, channels=8, num_tokens=3, dropout=0.1).eval()


def series_encoder() -> TimeSeriesEncoder:
    return TimeSeriesEncoder(
        num_features=2, hours=4, dim=24, depth=2, num_heads=3, dropout=0.1
    ).eval()


SERIES = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1))
SEEN = torch.ones(5, 4, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("encoder", "values", "observed", "num_tokens"),
    [
        (image_encoder(), torch.randn(5, 1, 16, 16), None, 16),  # (16 / 4)^2
        (signal_encoder(), torch.randn(5, 2, 100), None, 3),
        (series_encoder(), SERIES, SEEN, 4),  # one an hour
    ],
)
def test_rows_become_tokens_of_about_unit_size(
    encoder: nn.Module, values: torch.Tensor, observed: torch.Tensor | None, num_tokens: int
) -> None:
    tokens, carries = encoder(values, observed)
    assert encoder.num_tokens == num_tokens
    assert tokens.shape == (5, num_tokens, encoder.dim)
    assert carries.shape == (5, num_tokens)
    assert carries.all()
    assert 0.5 < tokens.std() < 2.0


@pytest.mark.parametrize("encoder", [image_encoder(), signal_encoder(), series_encoder()])
def test_no_layer_keeps_running_statistics(encoder: nn.Module) -> None:
    # They would be averaged across hospitals like weights, and a buffer would not be sent at all.
    assert list(encoder.buffers()) == []
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())


@pytest.mark.parametrize("encoder", [image_encoder(), signal_encoder(), series_encoder()])
def test_a_row_does_not_depend_on_the_others(encoder: nn.Module) -> None:
    shape = {ImageEncoder: (3, 1, 16, 16), SignalEncoder: (3, 2, 100)}.get(type(encoder), (3, 4, 2))
    values = torch.randn(shape)
    observed = torch.rand(shape) < 0.7
    together, _ = encoder(values, observed)
    alone, _ = encoder(values[1:2], observed[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_missing_value_differs_from_an_average_one() -> None:
    encoder, seen = series_encoder(), SEEN.clone()
    values = SERIES.clone()
    values[0, 1, 0] = 0.0
    measured, _ = encoder(values, seen)
    seen[0, 1, 0] = False
    missing, _ = encoder(values, seen)
    assert not torch.allclose(measured[0], missing[0])
    assert torch.equal(measured[1:], missing[1:])


def test_an_hour_without_observation_is_not_attended_to() -> None:
    encoder, seen = series_encoder(), SEEN.clone()
    seen[0, 2] = False
    one, carries = encoder(SERIES, seen)
    changed = SERIES.clone()
    changed[0, 2] = 99.0  # nobody may look at what was not observed
    other, _ = encoder(changed, seen)
    assert carries[0].tolist() == [True, True, False, True]
    torch.testing.assert_close(one[0, [0, 1, 3]], other[0, [0, 1, 3]])


def test_a_row_without_any_observation_has_one_finite_token() -> None:
    tokens, carries = series_encoder()(SERIES, torch.zeros_like(SEEN))
    assert carries.tolist() == [[True, False, False, False]] * 5
    assert torch.isfinite(tokens).all()


def test_the_first_hour_carries_though_only_later_ones_were_observed() -> None:
    seen = SEEN.clone()
    seen[0, [0, 3]] = False
    _, carries = series_encoder()(SERIES, seen)
    assert carries[0].tolist() == [True, True, True, False]


def test_masked_mean_by_hand() -> None:
    tokens = torch.tensor([[[2.0], [4.0], [90.0]], [[5.0], [6.0], [7.0]]])
    carries = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(tokens, carries).tolist() == [[3.0], [0.0]]


def test_scattered_rows_leave_zeros_elsewhere() -> None:
    values = torch.tensor([[1.0], [2.0]])
    assert scatter_rows(values, torch.tensor([2, 0]), 4).tolist() == [[2.0], [0.0], [1.0], [0.0]]
