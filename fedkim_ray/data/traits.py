"""Whom a test question is about: sex, age and site, for results by subgroup.

No model reads them. Test rows alone carry them: training has no use for them.
"""

from collections.abc import Sequence
from itertools import pairwise

SEXES = ("female", "male")
MAX_AGE_YEARS = 120
"""Greater ages are codes of a source, such as 300 for all over 89, and count as not stated."""
BAND_STARTS: Sequence[int] = (0, 18, 40, 65, 80)
"""First year of each age band."""


def read_sex(text: str) -> str | None:
    """Return one of ``SEXES`` for its name or first letter in any case; None for all else."""
    word = text.strip().lower()
    return next((sex for sex in SEXES if word in (sex, sex[0])), None)


def read_age(text: str) -> int | None:
    """Return whole years, 0 to ``MAX_AGE_YEARS``; None for all else."""
    try:
        years = float(text)
    except ValueError:
        return None
    return int(years) if 0 <= years <= MAX_AGE_YEARS else None


def age_band(years: int) -> str:
    """Return the band that holds an age: ``40-64``, or ``80+``."""
    for start, after in pairwise(BAND_STARTS):
        if years < after:
            return f"{start}-{after - 1}"
    return f"{BAND_STARTS[-1]}+"
