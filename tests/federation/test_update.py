"""What the server refuses: one fault at a time in an otherwise good update."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from fedkim_ray.errors import ClientFailedError, ParamsMismatchError
from fedkim_ray.federation.update import ClientUpdate, norm, validate_update

PARAMS = {
    "encoders.image.w": torch.zeros(2, 3),
    "encoders.image.b": torch.zeros(2),
    "heads.covid19.w": torch.zeros(1),
}
GOOD = ClientUpdate(
    client_id="north",
    round_index=3,
    delta={"encoders.image.w": torch.ones(2, 3), "encoders.image.b": torch.ones(2)},
    num_examples={"encoders.image": 7},
    metrics={"train/loss": 0.5},
)


def with_delta(**changes: torch.Tensor | None) -> ClientUpdate:
    """Change tensors of the image encoder; None leaves one out."""
    delta = {**GOOD.delta, **{f"encoders.image.{k}": v for k, v in changes.items()}}
    return replace(GOOD, delta={k: v for k, v in delta.items() if v is not None})


@pytest.mark.parametrize("update", [GOOD, replace(GOOD, num_examples={"encoders.image": 0})])
def test_a_good_update_passes(update: ClientUpdate) -> None:
    # Eight ones: the norm is the root of 8.
    assert validate_update(update, PARAMS) == pytest.approx(8**0.5)


@pytest.mark.parametrize(
    ("update", "text"),
    [
        (with_delta(extra=torch.ones(1)), r"adds \['encoders.image.extra'\]"),
        (with_delta(b=None), r"lacks \['encoders.image.b'\]"),
        (
            with_delta(b=torch.ones(3)),
            r"'encoders.image.b' with shape \(3,\).*Expected shape \(2,\)",
        ),
        (with_delta(b=torch.ones(2).double()), r"dtype torch.float64.*dtype torch.float32"),
        (replace(GOOD, delta={"rows": torch.ones(9)}, num_examples={}), r"adds \['rows'\]"),
    ],
)
def test_another_models_parameters_are_refused(update: ClientUpdate, text: str) -> None:
    with pytest.raises(ParamsMismatchError, match=rf"client 'north' for round 3.*{text}"):
        validate_update(update, PARAMS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ClientFailedError, match=r"NaN or infinite value in 'encoders\.image\.b'"):
        validate_update(with_delta(b=torch.tensor([1.0, bad])), PARAMS)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, r"counts examples of \[\]"),
        ({"encoders.image": 7, "encoders.lab": 1}, "counts examples of .*encoders.lab"),
        ({"encoders.image": -1}, "counts -1 examples"),
        ({"encoders.image": 2**63}, "counts 9223372036854775808 examples"),
        ({"encoders.image": 2.5}, "counts 2.5 examples"),
    ],
)
def test_counts_are_whole_and_complete(counts: Mapping[str, int], text: str) -> None:
    with pytest.raises(ClientFailedError, match=text):
        validate_update(replace(GOOD, num_examples=counts), PARAMS)


@pytest.mark.parametrize(
    "metrics", [{"train/loss": float("nan")}, {"Jane Doe, born 1950": 1.0}, {"a" * 81: 1.0}]
)
def test_metrics_are_finite_and_plainly_named(metrics: Mapping[str, float]) -> None:
    with pytest.raises(ClientFailedError, match="a name or value that cannot be used") as caught:
        validate_update(replace(GOOD, metrics=metrics), PARAMS)
    assert "Jane" not in str(caught.value)


def test_the_norm_runs_over_all_tensors() -> None:
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([0.0, 4.0])}) == 5.0
