"""The light model: groups, joined representations, parameters by name."""

import numpy as np
import pytest
import torch

from fedkim_ray.config import (
    EncodersConfig,
    ImageEncoderConfig,
    SeriesEncoderConfig,
    SignalEncoderConfig,
)
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import Example, collate
from fedkim_ray.data.schema import DataSpec, SeriesSpec
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel, modality_groups
from fedkim_ray.errors import DataError, ParamsMismatchError, RecipeError
from fedkim_ray.types import param_group

TRAINED = [t for t in TASKS if t.role == "train"]
BY_ID = {t.id: t for t in TASKS}
ENCODERS = EncodersConfig(
    image=ImageEncoderConfig(dim=16, depth=1, num_heads=2, patch_px=8),
    signal=SignalEncoderConfig(dim=8, channels=8, num_tokens=2),
    series=SeriesEncoderConfig(dim=12, num_heads=2),
)
JOINED = ENCODERS.model_copy(update={"groups": {"stay": ("lab", "vital")}})


def example(task: str, **arrays: np.ndarray) -> Example:
    """Build an example; every value of a series is observed."""
    observed = {m: np.ones(a.shape, bool) for m, a in arrays.items() if m in SPEC.series}
    return Example(
        sample_id="s",
        subject_id="p",
        task=task,
        question="?",
        answer="Yes",
        label=1,
        text=None,
        arrays=arrays,
        observed=observed,
    )


def series(value: float = 1.0) -> np.ndarray:
    return np.full((4, 2), value, np.float32)


def model(config: EncodersConfig = ENCODERS) -> LightModel:
    torch.manual_seed(0)
    return LightModel(config, SPEC, TRAINED).eval()


def logit(light: LightModel, row: Example, *others: Example) -> float:
    """Return the logit of ``row`` in a batch with others."""
    batch = collate([row, *others], SPEC)
    rows = torch.tensor([0])
    return light.logits(light.encode(batch), BY_ID[row.task], rows, batch.size).item()


def test_each_name_starts_with_its_group() -> None:
    groups = {param_group(name) for name in model().params()}
    encoders = {f"encoders.{m}" for m in ("image", "signal", "lab", "vital", "input", "output")}
    assert groups == encoders | {f"heads.{t.id}" for t in TRAINED}


def test_series_of_a_group_share_one_encoder() -> None:
    assert modality_groups(JOINED, SPEC) == {
        "image": ("image",),
        "signal": ("signal",),
        "stay": ("lab", "vital"),
        "input": ("input",),
        "output": ("output",),
    }
    light = model(JOINED)
    assert light.groups_of(BY_ID["mortality"]) == ["stay", "input", "output"]
    assert light.heads["mortality"].in_features == 3 * 12


def test_only_groups_in_the_batch_are_encoded() -> None:
    batch = collate([example("mortality", lab=series()), example("mortality")], SPEC)
    encoded = model().encode(batch)
    assert encoded.keys() == {"lab"}
    assert encoded["lab"].rows.tolist() == [0]


def test_a_group_with_one_member_absent_takes_it_as_unobserved() -> None:
    light = model(JOINED)
    encoded = light.encode(collate([example("mortality", lab=series())], SPEC))
    assert encoded["stay"].tokens.shape == (1, 4, 12)


def test_an_absent_modality_leaves_the_others_as_they_are() -> None:
    light = model()
    whole = example("mortality", lab=series(), vital=series(2.0))
    batch = collate([whole, example("mortality", lab=series(3.0))], SPEC)
    alone = collate([whole], SPEC)
    for group in ("lab", "vital"):
        torch.testing.assert_close(
            light.encode(batch)[group].tokens[:1], light.encode(alone)[group].tokens
        )


def test_what_was_not_observed_does_not_matter() -> None:
    def half_seen(hidden: float) -> Example:
        row = example("mortality", lab=series())
        row.arrays["lab"][2:, 0] = hidden  # type: ignore[index]
        row.observed["lab"][2:, 0] = False  # type: ignore[index]
        return row

    light = model()
    assert logit(light, half_seen(7.0)) == logit(light, half_seen(-3.0))


def test_a_logit_does_not_depend_on_the_batch() -> None:
    light = model()
    row = example("ecg_abnormal", signal=np.ones((2, 100), np.float32))
    other = example("lung_opacity", image=np.ones((16, 16), np.float32))
    assert logit(light, row, other) == pytest.approx(logit(light, row), abs=1e-5)


def test_parameters_come_back_equal_as_copies() -> None:
    light, other = model(), LightModel(ENCODERS, SPEC, TRAINED)
    params = light.params()
    other.load_params(params)
    assert all(torch.equal(value, other.params()[name]) for name, value in params.items())
    params["heads.covid19.bias"].fill_(9.0)
    assert other.params()["heads.covid19.bias"].item() != 9.0


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_parameters_of_another_model_are_refused_and_nothing_is_loaded(change: str) -> None:
    light = model()
    before, params = light.params(), light.params()
    name = "heads.mortality.bias"
    if change == "missing":
        del params[name]
    elif change == "extra":
        params["heads.gossip.bias"] = torch.ones(1)
    else:
        params[name] = torch.ones(2)
    params["heads.covid19.bias"] = torch.ones(1)
    with pytest.raises(ParamsMismatchError, match=r"Parameters \['heads\.(mortality|gossip)\.bias"):
        light.load_params(params)
    assert all(torch.equal(value, before[n]) for n, value in light.params().items())


def test_generated_tasks_have_no_head() -> None:
    light = LightModel(ENCODERS, SPEC, [*TRAINED, BY_ID["med_vqa"]])
    assert "med_vqa" not in light.heads


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ({"g": ("image", "lab")}, "names \\['image'\\]"),
        ({"g": ("lab", "vital"), "h": ("lab",)}, "names \\['lab', 'lab'\\]"),
        ({"lab": ("vital", "input")}, r"groups named \['lab'\], modalities that they do not join"),
        ({"image": ("lab", "vital")}, r"groups named \['image'\], modalities"),
        ({"values": ("lab", "vital")}, r"names \['values'\]\. .* Choose another name"),
    ],
)
def test_groups_join_series_once(groups: dict[str, tuple[str, ...]], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        model(ENCODERS.model_copy(update={"groups": groups}))


def test_a_group_may_have_the_name_of_a_member() -> None:
    groups = modality_groups(
        ENCODERS.model_copy(update={"groups": {"lab": ("vital", "lab")}}), SPEC
    )
    assert groups["lab"] == ("lab", "vital")
    assert [*groups] == ["image", "signal", "lab", "input", "output"]


@pytest.mark.parametrize("name", ["train", "keys", "type", "logits"])
def test_a_task_named_like_an_attribute_of_its_container_is_refused(name: str) -> None:
    task = BY_ID["covid19"].model_copy(update={"id": name})
    with pytest.raises(RecipeError, match=rf"are named \['{name}'\]\. .* Choose another name"):
        LightModel(ENCODERS, SPEC, [*TRAINED, task])


def test_a_yes_no_task_of_text_alone_cannot_be_learnt() -> None:
    task = BY_ID["covid19"].model_copy(update={"id": "triage", "modalities": ("text",)})
    with pytest.raises(
        RecipeError, match=r"'triage' reads text alone\. .*the data carry image, sig"
    ):
        LightModel(ENCODERS, SPEC, [*TRAINED, task])
    LightModel(ENCODERS, SPEC, [task.model_copy(update={"kind": "generate"})])  # has no head


def test_data_without_any_encoded_modality_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"no encoded modality\. Encoders are for image, signal, lab"
    ):
        LightModel(ENCODERS, DataSpec(), ())


def test_series_of_different_lengths_cannot_be_joined() -> None:
    longer = SeriesSpec(hours=8, features=SPEC.series["lab"].features)
    spec = SPEC.model_copy(update={"series": {**SPEC.series, "lab": longer}})
    with pytest.raises(RecipeError, match="joins series of different lengths"):
        LightModel(JOINED, spec, TRAINED)


@pytest.mark.parametrize("patch_px", [3, 32])
def test_a_patch_divides_the_image(patch_px: int) -> None:
    image = ENCODERS.image.model_copy(update={"patch_px": patch_px})
    with pytest.raises(RecipeError, match=f"patch_px is {patch_px} for images of 16 pixels"):
        model(ENCODERS.model_copy(update={"image": image}))
