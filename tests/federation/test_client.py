"""One client's round: what it computes, what it sends, what it leaves behind."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from torch.nn import functional as F

from fedkim_ray.data.demo.tiny import SPEC, write_tiny_root
from fedkim_ray.data.loading import collate
from fedkim_ray.errors import DataError, ParamsMismatchError, TrainingDivergedError
from fedkim_ray.federation.client import Client, OpenClients, seed_of
from fedkim_ray.federation.update import ClientUpdate, validate_update
from fedkim_ray.types import param_group


def equal(one: ClientUpdate, other: ClientUpdate) -> bool:
    return one.delta.keys() == other.delta.keys() and all(
        torch.equal(value, other.delta[name]) for name, value in one.delta.items()
    )


@pytest.fixture
def south(tiny) -> Client:
    return Client(tiny.setups["south"])


def test_an_update_passes_the_servers_check(tiny, south: Client) -> None:
    validate_update(south.train_round(tiny.plan("south"), tiny.params), tiny.params)


def test_a_client_sends_the_groups_that_its_data_carry(tiny, south: Client) -> None:
    update = south.train_round(tiny.plan("south", epochs=2), tiny.params)
    # 48 ECGs and 48 series, each counted once although two epochs ran; south has no images.
    assert update.num_examples == {
        "encoders.signal": 48,
        "encoders.lab": 48,
        "encoders.vital": 48,
        "encoders.input": 48,
        "encoders.output": 48,
        "heads.ecg_abnormal": 48,
        "heads.mortality": 48,
    }
    assert {param_group(name) for name in update.delta} == update.num_examples.keys()


def test_one_batch_is_one_adam_step_on_the_objective(tiny_without_dropout) -> None:
    tiny = tiny_without_dropout
    client = Client(tiny.setups["south"])
    update = client.train_round(tiny.plan("south", batch_size=96, lr=0.01), tiny.params)

    # L = (1/2) * (mean loss of ECG + mean loss of mortality), from its definition.
    client.model.load_params(tiny.params)
    loss = torch.zeros(())
    for task in client.tasks:
        batch = collate(list(client.data.train[task.id]), SPEC)
        rows = torch.arange(batch.size)
        logits = client.model.logits(client.model.encode(batch), task, rows, batch.size)
        labels = torch.tensor([float(e.label) for e in batch.examples])
        loss = loss + F.binary_cross_entropy_with_logits(logits, labels) / 2
    names = sorted(update.delta)
    theta = dict(client.model.named_parameters())
    gradients = torch.autograd.grad(loss, [theta[name] for name in names], allow_unused=True)

    # Adam's first step is -lr * g / (|g| + eps): m and v are g and g^2 after bias correction.
    for name, g in zip(names, gradients, strict=True):
        assert g is not None
        expected = -0.01 * g / (g.abs() + 1e-8)
        sure = g.abs() > 1e-5  # a gradient of rounding size has no sure sign
        torch.testing.assert_close(
            update.delta[name][sure], expected[sure], rtol=0.02, atol=1e-5, msg=name
        )


def test_training_lowers_the_validation_loss(tiny, south: Client) -> None:
    metrics = south.train_round(tiny.plan("south", epochs=5), tiny.params).metrics
    for task in ("ecg_abnormal", "mortality"):
        assert metrics[f"valid/{task}/loss_after"] < metrics[f"valid/{task}/loss_before"]
        assert metrics[f"valid/{task}/auroc_after"] > 0.9
        assert metrics[f"valid/{task}/examples"] == 12


def test_the_same_plan_gives_the_same_bits(tiny, south: Client) -> None:
    plan = tiny.plan("south")
    assert equal(south.train_round(plan, tiny.params), south.train_round(plan, tiny.params))


def test_no_state_is_kept_between_rounds(tiny, south: Client) -> None:
    south.train_round(tiny.plan("south", 0), tiny.params)
    after_another = south.train_round(tiny.plan("south", 1), tiny.params)
    fresh = Client(tiny.setups["south"]).train_round(tiny.plan("south", 1), tiny.params)
    assert equal(after_another, fresh)


def test_each_round_has_its_own_random_numbers(tiny, south: Client) -> None:
    plans = [tiny.plan("south", 0), tiny.plan("south", 1), tiny.plan("north", 0)]
    seeds = {seed_of(plan, purpose) for plan in plans for purpose in ("order", "dropout")}
    assert len(seeds) == 6
    assert not equal(*(south.train_round(plan, tiny.params) for plan in plans[:2]))


def test_dropout_depends_on_the_plan_and_not_on_the_process(tiny, south: Client) -> None:
    torch.manual_seed(1)
    one = south.train_round(tiny.plan("south"), tiny.params)
    torch.manual_seed(2)
    assert equal(one, south.train_round(tiny.plan("south"), tiny.params))


def test_the_process_is_left_as_it_was(tiny, south: Client) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    south.train_round(tiny.plan("south"), tiny.params)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()


def test_the_proximal_term_pulls_towards_the_global_parameters(tiny, south: Client) -> None:
    def distance(mu: float) -> float:
        update = south.train_round(tiny.plan("south", epochs=3, mu=mu), tiny.params)
        return sum(float(value.square().sum()) for value in update.delta.values())

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_parameters_of_another_model_are_refused(tiny, south: Client) -> None:
    with pytest.raises(ParamsMismatchError, match="differ in name or shape"):
        south.train_round(tiny.plan("south"), {"encoders.image.w": torch.ones(1)})


def test_divergence_is_told_and_nothing_is_sent(tiny, south: Client) -> None:
    params = {name: torch.full_like(value, torch.inf) for name, value in tiny.params.items()}
    with pytest.raises(TrainingDivergedError, match=r"training loss .*'south' in round 0 is nan"):
        south.train_round(tiny.plan("south", lr=1e38), tiny.params)
    for answer in (south.train_round, south.score_round):
        with pytest.raises(TrainingDivergedError, match=r"validation loss of 'ecg_abnormal'.* nan"):
            answer(tiny.plan("south"), params)


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    write_tiny_root(str(tmp_path))
    return tmp_path


def client_at(tiny, root: Path, client_id: str) -> Client:
    return Client(tiny.setups[client_id].model_copy(update={"data_url": str(root)}))


def south_at(tiny, root: Path) -> Client:
    return client_at(tiny, root, "south")


def spoil_row_5(path: Path, column: str, value: str | bytes | None) -> None:
    """Put a value into a sample table."""
    table = pq.read_table(path)
    field = table.schema.field(column)
    values = table[column].to_pylist()
    values[5] = value
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), path)


def test_a_missing_set_names_its_folder(tiny, own_root: Path) -> None:
    folder = own_root / "clients/south/mortality/valid"
    (folder / "part-0.parquet").unlink()
    with pytest.raises(DataError, match=f"no samples in '{folder}'"):
        south_at(tiny, own_root)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("label", None, "Row 5 of .*mortality/train', column 'label'"),
        ("task", "gossip", "Row 5 of .*mortality/train', column 'task'"),
    ],
)
def test_a_bad_row_is_named_and_not_quoted(
    tiny, own_root: Path, column: str, value: str | None, text: str
) -> None:
    spoil_row_5(own_root / "clients/south/mortality/train/part-0.parquet", column, value)
    with pytest.raises(DataError, match=text) as caught:
        south_at(tiny, own_root)
    assert "gossip" not in str(caught.value)


def test_a_broken_image_is_named_and_not_shown(tiny, own_root: Path) -> None:
    path = own_root / "clients/north/covid19/train/part-0.parquet"
    spoil_row_5(path, "image", b"gossip")
    north = client_at(tiny, own_root, "north")
    expected = f"'{path}', row 5, column 'image': An image of 6 bytes cannot be decoded"
    with pytest.raises(DataError, match=expected) as caught:
        north.train_round(tiny.plan("north"), tiny.params)
    assert "gossip" not in str(caught.value)


def test_a_file_that_the_card_does_not_name_is_refused(tiny, own_root: Path) -> None:
    train = own_root / "clients/south/mortality/train"
    (train / "stray.parquet").write_bytes((train / "part-0.parquet").read_bytes())
    with pytest.raises(DataError, match=r"train/stray\.parquet' is not on the card"):
        south_at(tiny, own_root)


def test_a_client_needs_to_see_no_more_than_its_own_folder(
    tiny, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fs: LocalFileSystem, path: str) -> bool:
        raise PermissionError(f"{path} is not yours")

    monkeypatch.setattr(LocalFileSystem, "exists", refuse)
    assert south_at(tiny, own_root)


def test_an_empty_set_is_refused(tiny, own_root: Path) -> None:
    path = own_root / "clients/south/mortality/valid/part-0.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match=r"mortality/valid' have no row"):
        south_at(tiny, own_root)


def test_scoring_trains_nothing_and_sends_numbers_alone(tiny, south: Client) -> None:
    plan = tiny.plan("south").model_copy(update={"work": "score_injected"})
    scored = south.score_round(plan, tiny.params)
    trained = south.train_round(tiny.plan("south"), tiny.params)
    assert (scored.delta, scored.num_examples, scored.work) == ({}, {}, "score_injected")
    for name in ("auroc", "loss"):
        before = trained.metrics[f"valid/mortality/{name}_before"]
        assert scored.metrics[f"valid/mortality/{name}"] == before
    validate_update(scored, tiny.params)


def test_clients_that_share_a_model_train_as_those_that_do_not(tiny) -> None:
    opened = OpenClients(tiny.setups.__getitem__)
    for client_id in ("north", "south", "north"):
        plan = tiny.plan(client_id)
        alone = Client(tiny.setups[client_id]).train_round(plan, tiny.params)
        assert equal(opened(client_id).train_round(plan, tiny.params), alone)
    assert opened("north").model is opened("south").model


def test_few_clients_keep_their_data_open(tiny) -> None:
    opened = OpenClients(tiny.setups.__getitem__, num_open=1)
    first = opened("north")
    assert opened("north") is first
    opened("south")
    assert opened("north") is not first
