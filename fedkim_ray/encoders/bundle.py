"""The light model f_n that hospitals train: an encoder per modality group, a head per task.

Parameter names start with their group, ``encoders.image.…`` or ``heads.mortality.…``, because
groups are what aggregation averages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fedkim_ray.config import EncodersConfig
from fedkim_ray.data.loading import Batch, ModalityRows
from fedkim_ray.data.modalities import ENCODED, MODALITIES, SERIES
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.encoders.base import Encoder
from fedkim_ray.encoders.heads import Heads, masked_mean, scatter_rows
from fedkim_ray.encoders.image import ImageEncoder
from fedkim_ray.encoders.signal import SignalEncoder
from fedkim_ray.encoders.time_series import TimeSeriesEncoder
from fedkim_ray.errors import DataError, ParamsMismatchError, RecipeError
from fedkim_ray.types import Modality, Task


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one encoder made of a batch."""

    rows: Tensor
    """(N,) int64: rows of the batch."""
    tokens: Tensor
    """(N, K, D)."""
    carries: Tensor
    """(N, K) bool: tokens that carry something."""


class LightModel(nn.Module):
    """Encoders and heads, trained by clients and averaged by the server."""

    def __init__(self, config: EncodersConfig, spec: DataSpec, tasks: Sequence[Task]) -> None:
        """Build an encoder for each group that the data carry, and a head for each yes/no task.

        Raises:
            DataError: the data carry no encoded modality.
            RecipeError: the encoders are impossible, a yes/no task reads nothing that is encoded,
                or a group's or task's name is taken.
        """
        super().__init__()
        self.groups = modality_groups(config, spec)
        self.spec = spec
        heads = [task for task in tasks if task.kind == "yes_no"]
        _require_free_names("encoders.groups names", self.groups, nn.ModuleDict())
        _require_free_names("Tasks that clients learn are named", [t.id for t in heads], Heads({}))
        self.encoders = nn.ModuleDict(
            {group: _build_encoder(config, spec, group, m) for group, m in self.groups.items()}
        )
        self.heads = Heads({task.id: self._head_width(task) for task in heads})

    def groups_of(self, task: Task) -> list[str]:
        """Return the encoder groups that ``task`` joins, in the fixed order."""
        return [g for g, members in self.groups.items() if set(members) & set(task.modalities)]

    def _head_width(self, task: Task) -> int:
        if not (groups := self.groups_of(task)):
            raise RecipeError(
                f"The yes/no task {task.id!r} reads {', '.join(task.modalities)} alone.",
                "Clients learn such a task from at least one encoded modality, and the data carry "
                f"{', '.join(self.spec.modalities)}.",
                "Leave the task out with data.tasks, or import data of a modality that it reads.",
            )
        return sum(self.dim_of(group) for group in groups)

    def dim_of(self, group: str) -> int:
        """Return D, the token width of a group's encoder."""
        return cast(Encoder, self.encoders[group]).dim

    def encode(self, batch: Batch, complete: bool = False) -> dict[str, Encoded]:
        """Encode each group that occurs in the batch, on the device of the parameters.

        Args:
            batch: Examples, which may lack any modality.
            complete: Run the encoders of absent groups too, on a blank row of which no row is kept:
                workers that share sharded parameters must all run the same modules in one order.
        """
        encoded = {}
        for group, members in self.groups.items():
            if joined := join_members(batch, members, self.spec):
                encoded[group] = self._encode_group(group, joined)
            elif complete:
                e = self._encode_group(group, self.blank_row(group))
                encoded[group] = Encoded(e.rows[:0], e.tokens[:0], e.carries[:0])
        return encoded

    def _encode_group(self, group: str, joined: ModalityRows) -> Encoded:
        weight = next(self.parameters())
        observed = None if joined.observed is None else joined.observed.to(weight.device)
        values = joined.values.to(weight.device, weight.dtype)
        tokens, carries = self.encoders[group](values, observed)
        return Encoded(joined.rows.to(weight.device), tokens, carries)

    def blank_row(self, group: str) -> ModalityRows:
        """Return one row of zeros, nothing observed, as the group's encoder takes it."""
        first = self.groups[group][0]
        if first == "image" and self.spec.image:
            size = self.spec.image.size_px
            return ModalityRows(torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, size, size))
        width = sum(self.spec.shape(m)[1] for m in self.groups[group])
        values = torch.zeros(1, self.spec.shape(first)[0], width)
        observed = None if first == "signal" else torch.zeros(values.shape, dtype=torch.bool)
        return ModalityRows(torch.zeros(1, dtype=torch.long), values, observed)

    def logits(self, encoded: Mapping[str, Encoded], task: Task, rows: Tensor, size: int) -> Tensor:
        """Return the head's logits for ``rows`` of a batch of ``size``, (len(rows),) float."""
        parts = []
        for group in self.groups_of(task):
            if group in encoded:
                e = encoded[group]
                part = scatter_rows(masked_mean(e.tokens, e.carries), e.rows, size)
            else:
                weight = next(self.parameters())
                part = weight.new_zeros(size, self.dim_of(group))
            parts.append(part[rows.to(part.device)])
        return self.heads.logits(task.id, torch.cat(parts, -1))

    def params(self) -> dict[str, Tensor]:
        """Return every parameter, float32 on CPU, detached copies."""
        return {n: p.detach().float().cpu().clone() for n, p in self.named_parameters()}

    def load_params(self, params: Mapping[str, Tensor]) -> None:
        """Take over parameters by name.

        Raises:
            ParamsMismatchError: names or shapes differ from this model's.
        """
        own = {n: tuple(p.shape) for n, p in self.named_parameters()}
        came = {n: tuple(p.shape) for n, p in params.items()}
        if own != came:
            wrong = sorted(n for n in own.keys() | came.keys() if own.get(n) != came.get(n))
            raise ParamsMismatchError(
                f"Parameters {wrong[:5]} differ in name or shape ({len(wrong)} in all).",
                f"This model has {len(own)} parameters.",
                "Both sides must be started from the same recipe and data specification.",
            )
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(params[name])


def modality_groups(config: EncodersConfig, spec: DataSpec) -> dict[str, tuple[Modality, ...]]:
    """Return the encoder groups of the data in the fixed order of their first modality.

    Raises:
        DataError: the data carry no encoded modality.
        RecipeError: the groups are impossible.
    """
    if not spec.modalities:
        raise DataError(
            "The data carry no encoded modality.",
            f"Encoders are for {', '.join(ENCODED)}; text alone has none to train.",
            "Import data that carry at least one of them.",
        )
    owner = group_of_each(config)
    groups: dict[str, tuple[Modality, ...]] = {}
    for modality in spec.modalities:
        group = owner[modality]
        groups[group] = (*groups.get(group, ()), modality)
    return groups


def group_of_each(config: EncodersConfig) -> dict[Modality, str]:
    """Return the encoder group of every encoded modality; its own name where no group names it.

    Raises:
        RecipeError: a group names a modality that is no time series, or one twice, or bears the
            name of a modality that it does not join.
    """
    grouped = [m for members in config.groups.values() for m in members]
    wrong = [m for m in grouped if m not in SERIES or grouped.count(m) > 1]
    if wrong:
        raise RecipeError(
            f"encoders.groups names {wrong}.",
            f"A group joins time series ({', '.join(SERIES)}), each in one group at most.",
            "Correct encoders.groups in the recipe.",
        )
    # Else the modality's own encoder, which has its name, would become the group's.
    if borrowed := [g for g, own in config.groups.items() if g in MODALITIES and g not in own]:
        raise RecipeError(
            f"encoders.groups has groups named {borrowed}, modalities that they do not join.",
            "A group with a modality's name has that modality among its members.",
            "Give the group a name of its own, such as icu.",
        )
    owner = {m: g for g, members in config.groups.items() for m in members}
    return {m: owner.get(m, m) for m in ENCODED}


def join_members(batch: Batch, members: Sequence[Modality], spec: DataSpec) -> ModalityRows | None:
    """Join a group's modalities feature by feature; an absent one is unobserved zeros."""
    present = [m for m in members if m in batch.inputs]
    if len(members) == 1 or not present:
        return batch.inputs[members[0]] if present else None
    rows = torch.unique(torch.cat([batch.inputs[m].rows for m in present]))
    values, observed = [], []
    for member in members:
        x = torch.zeros(batch.size, *spec.shape(member))
        seen = torch.zeros(batch.size, *spec.shape(member), dtype=torch.bool)
        if (part := batch.inputs.get(member)) and part.observed is not None:
            x[part.rows], seen[part.rows] = part.values, part.observed
        values.append(x[rows])
        observed.append(seen[rows])
    return ModalityRows(rows, torch.cat(values, -1), torch.cat(observed, -1))


def _build_encoder(
    config: EncodersConfig, spec: DataSpec, group: str, members: Sequence[Modality]
) -> nn.Module:
    first = members[0]
    if first == "image" and spec.image:
        image = config.image
        _require_divisible(spec.image.size_px, image.patch_px)
        return ImageEncoder(
            spec.image.size_px,
            image.patch_px,
            image.dim,
            image.depth,
            image.num_heads,
            config.dropout,
        )
    if first == "signal":
        signal = config.signal
        return SignalEncoder(
            spec.shape("signal")[0],
            signal.dim,
            signal.channels,
            signal.num_tokens,
            config.dropout,
        )
    series, hours = config.series, spec.shape(first)[0]
    if any(spec.shape(m)[0] != hours for m in members):
        raise RecipeError(
            f"encoders.groups.{group} joins series of different lengths.",
            "Members of a group cover the same hours.",
            "Split the group, or import the data with equal hours.",
        )
    num_features = sum(spec.shape(m)[1] for m in members)
    return TimeSeriesEncoder(
        num_features, hours, series.dim, series.depth, series.num_heads, config.dropout
    )


def _require_free_names(what: str, names: Iterable[str], container: nn.ModuleDict) -> None:
    """Refuse names that are attributes of the container, which then takes no module so named."""
    if taken := [name for name in names if hasattr(container, name)]:
        raise RecipeError(
            f"{what} {taken}.",
            "PyTorch's containers of encoders and heads have attributes of that name.",
            "Choose another name; data of a task are imported under its id.",
        )


def _require_divisible(size_px: int, patch_px: int) -> None:
    if patch_px & (patch_px - 1) or size_px % patch_px:
        raise RecipeError(
            f"encoders.image.patch_px is {patch_px} for images of {size_px} pixels.",
            "It is a power of two that divides the images' side.",
            "Correct it in the recipe.",
        )
