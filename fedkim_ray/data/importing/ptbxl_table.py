"""PTB-XL's table of records, which its own importer and ECG-QA's read.

Source: Wagner et al. 2020, https://doi.org/10.1038/s41597-020-0495-6, table 2;
https://physionet.org/content/ptb-xl/1.0.3/
"""

import ast
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from fedkim_ray.data.importing.contract import Part
from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.schema import SignalSpec
from fedkim_ray.data.whole_numbers import whole_number
from fedkim_ray.types import Frozen

TABLE = "ptbxl_database.csv"
PEOPLE = "ptbxl"
"""The numbering of patients."""
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
SPEC = SignalSpec(leads=LEADS, sampling_rate_hz=100.0, num_samples=1000)
SEX_BY_CODE = {"0": "male", "1": "female"}
MAX_STATEMENTS = 4096
"""Characters of the longest ``scp_codes`` that is parsed; the real ones have at most 300."""
Folds = tuple[Annotated[int, Field(ge=1, le=10)], ...]


class FoldOptions(Frozen):
    """Which of the ten folds of ``strat_fold`` lie where; the others are private."""

    test_folds: Folds = (10,)
    public_folds: Folds = (9,)

    def part(self, strat_fold: str) -> Part:
        """Return where a record lies.

        Raises:
            RowRejectedError: the fold is no number.
        """
        try:
            fold = int(float(strat_fold))
        except ValueError:
            raise rejected("not_a_number", "strat_fold") from None
        if fold in self.test_folds:
            return "test"
        return "public" if fold in self.public_folds else "private"


def patient_of(cells: Mapping[str, str]) -> str:
    """Return whose a record is: the same text in every release of the table."""
    return whole_number(cells["patient_id"])


def parse_statements(text: str) -> dict[str, float]:
    """Return likelihoods in percent by SCP-ECG statement, from the text of a Python dictionary.

    Raises:
        RowRejectedError: it is no dictionary of numbers, or an empty one.
    """
    try:
        value: Any = ast.literal_eval(text) if len(text) <= MAX_STATEMENTS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    numbers = isinstance(value, dict) and all(isinstance(v, int | float) for v in value.values())
    if not numbers:
        raise rejected("label_unknown", "scp_codes")
    if not value:
        raise rejected("label_missing", "scp_codes")
    return {str(code): float(likelihood) for code, likelihood in value.items()}
