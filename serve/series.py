"""Laboratory values, vital signs, inputs and outputs as sent to tables of hours and features.

Shape letters: H hours, F features.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedkim_ray.data.schema import FeatureSpec, SeriesSpec
from serve.errors import FieldError
from serve.field_types import Hourly
from serve.limits import Limits


def series_arrays(
    table: Mapping[str, Hourly], spec: SeriesSpec, limits: Limits, path: str
) -> tuple[np.ndarray, np.ndarray]:
    """Lay features out as (H, F) values and (H, F) bool, True where something was measured.

    Raises:
        FieldError: a feature is unknown, too long, or has an impossible value.
    """
    hours = min(spec.hours, limits.series_hours)
    index = {feature.name: i for i, feature in enumerate(spec.features)}
    values = np.zeros((spec.hours, len(spec.features)), np.float32)
    observed = np.zeros(values.shape, bool)
    for name, hourly in table.items():
        if name not in index:
            raise FieldError(
                f"{path} has a feature {name[:40]!r}.",
                f"It has {', '.join(index)}.",
                "Use the names that /v1/tasks gives.",
                f"{path}.{name[:40]}",
            )
        column = hourly if isinstance(hourly, list) else [hourly]
        feature = spec.features[index[name]]
        _require_possible(column, feature, hours, f"{path}.{name}")
        for hour, value in enumerate(column):
            if value is not None:
                values[hour, index[name]] = value
                observed[hour, index[name]] = True
    if not observed.any():
        raise FieldError(
            f"{path} holds no measured value.", "It holds at least one.", "Leave it out.", path
        )
    return values, observed


def _require_possible(
    column: Sequence[float | None], feature: FeatureSpec, hours: int, path: str
) -> None:
    if len(column) > hours:
        raise FieldError(
            f"{path} has {len(column)} values.",
            f"The model reads {hours} hours.",
            "Send the last hours that fit.",
            path,
        )
    for hour, value in enumerate(column):
        if value is not None and not feature.low <= value <= feature.high:
            raise FieldError(
                f"{path}[{hour}] is not a possible value.",
                f"It lies between {feature.low:g} and {feature.high:g} {feature.unit}.",
                "Check the unit.",
                f"{path}[{hour}]",
            )
