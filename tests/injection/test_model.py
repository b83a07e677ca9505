"""The injected model as a whole: what depends on what, in every variant."""

import pytest
import torch
from torch import Tensor

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import Batch, SampleSet, collate
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import GateShapeError
from fedkim_ray.injection import attention
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.inference import asking, decode, score
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.recipe_files import load_recipe

IMAGE, SERIES = ("covid19", ("image",)), ("mortality", ("lab", "vital", "input", "output"))


def model_of(variant: str, *overrides: str) -> InjectedModel:
    recipe = load_recipe("tiny", overrides, variant)
    torch.manual_seed(0)
    tasks = {task.id: task for task in TASKS}
    base = load_base("tiny-random", "float32")
    model = InjectedModel(base, recipe.injection, recipe.encoders, SPEC, tasks)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # at zero, experts would have no effect
            torch.nn.init.normal_(parameter, std=0.5)
        if name.startswith("router.W_"):  # embeddings are small: attention were all but uniform
            torch.nn.init.normal_(parameter, std=10.0)
    return model.eval()


@pytest.fixture
def batch(samples: dict[str, SampleSet]) -> Batch:
    return collate([samples["covid19"][0], samples["mortality"][0], samples["covid19"][1]], SPEC)


def describe(model: InjectedModel, task: str, words: str) -> None:
    model.tasks[task] = model.tasks[task].model_copy(update={"description": words})


@torch.no_grad()
def alphas(model: InjectedModel) -> Tensor:
    return model.route([IMAGE, SERIES])


# ---- variants: what should be absent is absent --------------------------------------------------


@pytest.mark.parametrize("variant", ["fedkim", "fedkim_fedprox", "public_only"])
def test_the_whole_method_has_experts_router_aligners_and_encoders(variant: str) -> None:
    kinds = {n.split(".")[0] for n in model_of(variant).trained_parameters()}
    assert kinds == {"llm", "router", "aligners", "light"}


def test_fedplug_leaves_the_language_model_untouched(batch: Batch) -> None:
    model = model_of("fedplug")
    assert {n.split(".")[0] for n in model.trained_parameters()} == {"aligners", "light"}
    assert not any("lora" in n for n, _ in model.named_parameters())
    assert model.prompt(batch).alpha_BP is None


def test_fedplug_l_has_one_lora_of_the_same_rank_and_no_routing(batch: Batch) -> None:
    model, routed = model_of("fedplug_l"), model_of("fedkim")
    assert {n.split(".")[0] for n in model.trained_parameters()} == {"llm", "aligners", "light"}
    assert model.gate is None
    assert model.prompt(batch).alpha_BP is None
    shapes = {n: p.shape for n, p in routed.trained_parameters().items() if n.startswith("llm.")}
    assert shapes == {n: p.shape for n, p in model.trained_parameters().items() if n in shapes}
    with torch.inference_mode():  # the same numbers, but the gate moves those of fedkim
        assert not torch.allclose(score(model, batch), score(routed, batch))


def test_without_the_task_the_gate_does_not_move_when_its_description_changes() -> None:
    for variant, moves in (("no_task", False), ("fedkim", True)):
        model = model_of(variant)
        before = alphas(model)
        describe(model, "covid19", "Something else altogether, in other words.")
        assert torch.equal(alphas(model)[0], before[0]) is not moves
        assert torch.equal(alphas(model)[1], before[1])


def test_without_modalities_the_gate_does_not_move_when_they_change() -> None:
    for variant, moves in (("no_modality", False), ("fedkim", True)):
        model = model_of(variant)
        with torch.no_grad():
            alpha = model.route([IMAGE, ("covid19", ("image", "text"))])
        assert torch.equal(alpha[0], alpha[1]) is not moves


def test_public_only_differs_in_the_clients_alone() -> None:
    whole, public = (load_recipe("tiny", (), v) for v in ("fedkim", "public_only"))
    assert not public.federation.clients_train
    assert public.injection == whole.injection


# ---- gates --------------------------------------------------------------------------------------


def test_a_known_pair_is_routed_once_and_anew_after_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("fedkim")
    calls: list[int] = []
    assert model.router is not None
    model.router.register_forward_hook(lambda *_: calls.append(1))
    first = alphas(model)
    assert torch.equal(alphas(model), first)
    assert len(calls) == 2  # one a pair
    model.train()
    with torch.no_grad():
        model.router.W_q.weight.mul_(-3.0)
    model.eval()
    assert not torch.equal(alphas(model), first)


def test_a_new_task_routes_by_its_description_and_is_forgotten() -> None:
    model = model_of("fedkim")
    new = model.tasks["covid19"].model_copy(update={"id": "flu", "description": "Is it the flu?"})
    kept = len(model._described)
    with asking(model, [new]), torch.no_grad():
        assert model.route([("flu", ("image",))]).sum() == pytest.approx(1.0)
    assert len(model._described) == kept
    assert not model._routed


def test_rows_of_a_mixed_batch_answer_as_each_alone(
    samples: dict[str, SampleSet], batch: Batch
) -> None:
    model = model_of("fedkim", "injection.m3oe.target_modules=all")
    together = score(model, batch)
    for row, example in enumerate(batch.examples):
        alone = score(model, collate([example], SPEC))[0]
        torch.testing.assert_close(together[row], alone, rtol=0.0, atol=1e-5)


def test_decoding_with_the_cache_equals_whole_forward_passes(batch: Batch) -> None:
    model = model_of("fedkim", "injection.m3oe.target_modules=all")
    prompted = model.prompt(batch)
    for step, tokens in enumerate(decode(model, batch, 3, prompted=model.prompt(batch))):
        with torch.inference_mode(), model.hold(prompted.alpha_BP):
            hidden = model.hidden(prompted, use_cache=False).last_hidden_state[:, -1]
            whole = model.head(hidden, torch.arange(3)).argmax(-1)
        assert [t for t in tokens if t is not None] == [
            int(w) for w, t in zip(whole, tokens, strict=True) if t is not None
        ], step
        prompted = model.extend(prompted, whole)


def test_no_gate_is_left_over_when_a_step_fails(batch: Batch) -> None:
    model = model_of("fedkim").train()
    loss, _ = model(batch)
    with pytest.raises(GateShapeError, match="already held"):
        model(batch)
    loss.backward()
    model.release()
    model(batch)  # would be refused if the first gate were still held


@pytest.mark.parametrize("targets", ["attention_mlp", "all"])
def test_the_head_runs_at_answer_positions_alone(batch: Batch, targets: str) -> None:
    model = model_of("fedkim", f"injection.m3oe.target_modules={targets}")
    seen: list[Tensor] = []
    head = model.causal_lm.get_output_embeddings()
    head.register_forward_hook(lambda _layer, _inputs, logits: seen.append(logits))
    model(batch)
    answers = [e.answer + model.format.answer_close for e in batch.examples]
    assert [len(logits) for logits in seen] == [sum(len(model._ids(a)) for a in answers)]


def test_short_sequences_train_with_plain_attention_to_the_same_gradients(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    for short, name in ((192, "eager"), (0, "sdpa")):
        monkeypatch.setattr(attention, "SHORT_POSITIONS", short)
        model = model_of("fedkim", "injection.m3oe.dropout=0", "encoders.dropout=0").train()
        loss, _ = model(batch)
        assert model.causal_lm.config._attn_implementation == name
        loss.backward()
        model.release()
        ended.append([loss, *(p.grad for p in model.trained_parameters().values())])
        score(model.eval(), batch)
        assert model.causal_lm.config._attn_implementation == "sdpa"
    torch.testing.assert_close(ended[0], ended[1], rtol=1e-4, atol=1e-5)


# ---- layout -------------------------------------------------------------------------------------


def test_absent_modality_groups_run_without_any_effect(batch: Batch) -> None:
    model = model_of("fedkim").train()
    torch.manual_seed(0)
    loss, _ = model(batch)  # images and series, no signal
    loss.backward()
    absent = [p for n, p in model.named_parameters() if "encoders.signal" in n]
    assert absent
    assert all(p.grad is not None and not p.grad.any() for p in absent)
    assert model.light.groups.keys() == model.aligned(batch, complete=True).keys()
    plain = model.eval().aligned(batch)
    assert "signal" not in plain
    with torch.no_grad():
        complete = model.prompt(batch, None, model.aligned(batch, complete=True))
        torch.testing.assert_close(complete.embeds_BLE, model.prompt(batch).embeds_BLE)


# A row's columns: padding, opening, 2 pooled image tokens, or 4 hours of each of 4 series.
def test_modality_tokens_lie_in_a_fixed_order_after_the_opening(batch: Batch) -> None:
    model = model_of("fedkim")
    prompted, aligned = model.prompt(batch), model.aligned(batch)
    opening = len(model._ids(model.format.user_open))
    lengths = [len(model._layout(r, e, aligned, None)[0]) for r, e in enumerate(batch.examples)]
    width = prompted.embeds_BLE.shape[1]
    first = [width - length + opening for length in lengths]
    image = prompted.embeds_BLE[2, first[2] : first[2] + 2]
    torch.testing.assert_close(image, aligned["image"].tokens[1])
    for place, group in enumerate(("lab", "vital", "input", "output")):
        start = first[1] + 4 * place
        came = prompted.embeds_BLE[1, start : start + 4]
        torch.testing.assert_close(came, aligned[group].tokens[0])
        carried = prompted.mask_BL[1, start : start + 4].bool()
        assert torch.equal(carried, aligned[group].carries[0])


def test_the_loss_is_transformers_own_on_the_answers_tokens_alone(batch: Batch) -> None:
    model = model_of("fedkim")
    answers = [example.answer for example in batch.examples]
    prompted = model.prompt(batch, answers)
    ids = [model._ids(answer + model.format.answer_close) for answer in answers]
    with torch.no_grad(), model.hold(prompted.alpha_BP):
        mean, nats_B = model.loss(prompted)
        length = prompted.mask_BL.shape[1]
        logits_BLV = model.causal_lm(
            inputs_embeds=prompted.embeds_BLE,
            attention_mask=prompted.mask_BL,
            position_ids=prompted.position_ids,
        ).logits
        expected = []
        for row, answer in enumerate(ids):
            labels = torch.full((1, length), -100)  # transformers leaves these out, and shifts
            labels[0, -len(answer) :] = torch.tensor(answer)
            own = logits_BLV[row : row + 1]
            expected.append(model.causal_lm.loss_function(own, labels, own.shape[-1]))
    torch.testing.assert_close(nats_B, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
