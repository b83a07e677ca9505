"""An ECG as sent, its samples packed: thousands of JSON numbers are slow to hand on as objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve.schemas import Ecg, EcgFile

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEcg:
    """See ``Ecg``; nothing of it is held against a specification yet."""

    leads: Sequence[str] | None
    sampling_rate_hz: float | None
    unit: str
    rows: tuple[np.ndarray, ...]
    """float32, one array a lead, of whatever lengths; none where there is a file."""
    file: EcgFile | None

    @classmethod
    def of(cls, ecg: Ecg) -> "SentEcg":
        """Pack the samples in the precision that encoders read; larger numbers stay too large."""
        rows = (np.clip(np.asarray(row, np.float64), -LARGEST, LARGEST) for row in ecg.data or ())
        return cls(
            leads=ecg.leads,
            sampling_rate_hz=ecg.sampling_rate_hz,
            unit=ecg.unit,
            rows=tuple(row.astype(np.float32) for row in rows),
            file=ecg.file,
        )
