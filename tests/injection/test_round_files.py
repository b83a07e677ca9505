"""What a round starts from: this recipe's encoders, or a refusal that says what is different."""

from pathlib import Path

import pytest
import torch

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import ParamsMismatchError, StorageError
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import encoders_of, publish_round, read_round_start
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder, publish
from tests.injection.tiny import tiny_injection, tiny_model


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    return tiny_model(tiny_injection(1), "float32")


def aggregated(folder: Path, *overrides: str) -> str:
    """Publish encoders of the tiny recipe with overrides, all ones; return their URL."""
    light = LightModel(load_recipe("tiny", overrides).encoders, SPEC, ())
    with publish(Folder.at(folder), "aggregated", 1) as out:
        ones = {n: torch.ones_like(p) for n, p in light.params().items()}
        out.write_tensors("encoders.safetensors", ones)
    return str(folder)


def test_a_round_starts_with_its_encoders_and_the_last_round_s_rest(
    model: InjectedModel, tmp_path: Path
) -> None:
    url = aggregated(tmp_path / "aggregated")
    first = read_round_start(model, url, None)
    assert all(bool((p == 1).all()) for p in encoders_of(first.params).values())
    twos = {n: torch.full_like(p, 2.0) for n, p in first.params.items()}
    last = InjectionState(params=twos, moments={}, step=20)
    publish_round(Folder.at(tmp_path / "injected"), model, last, StepLog(), "0" * 64)
    second = read_round_start(model, url, str(tmp_path / "injected"))
    assert second.step == 20
    for name, value in second.params.items():
        assert bool((value == (1.0 if name.startswith("light.") else 2.0)).all()), name


@pytest.mark.parametrize("cut", [False, True])
def test_encoders_that_were_altered_are_refused_with_the_file_s_name(
    model: InjectedModel, tmp_path: Path, cut: bool
) -> None:
    url = aggregated(tmp_path / "aggregated")
    file = tmp_path / "aggregated/encoders.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data[:100] if cut else data)
    with pytest.raises(StorageError, match=r"aggregated/encoders\.safetensors' has SHA-256"):
        read_round_start(model, url, None)


# An image encoder of another width; one that splits images otherwise; series that share an encoder.
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoders.image.dim=64", r"image\S* has the shape .*recipe's model.* has the shape"),
        ("encoders.image.depth=2", r"blocks.1\S* has the shape .*no such parameter"),
        (
            "encoders.groups={icu: [lab, vital]}",
            r"encoders.icu\S* has the shape .* no such parameter.*another recipe do not fit",
        ),
    ],
)
def test_encoders_of_another_recipe_are_refused(
    model: InjectedModel, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ParamsMismatchError, match=message):
        read_round_start(model, aggregated(tmp_path / "other", override), None)
