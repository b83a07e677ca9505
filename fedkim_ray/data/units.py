"""Units of measured values, and how one becomes another: x_to = factor * x_from + offset."""

from collections.abc import Mapping

GENERAL: Mapping[tuple[str, str], tuple[float, float]] = {
    ("degF", "degC"): (5 / 9, -160 / 9),
    ("K", "degC"): (1.0, -273.15),
    ("kPa", "mmHg"): (7.500617, 0.0),
    ("cmH2O", "mmHg"): (0.735559, 0.0),
    ("bpm", "1/min"): (1.0, 0.0),
    ("/min", "1/min"): (1.0, 0.0),
    ("g/L", "g/dL"): (0.1, 0.0),
    ("mg/L", "mg/dL"): (0.1, 0.0),
    ("mEq/L", "mmol/L"): (1.0, 0.0),
    ("10^9/L", "10^3/uL"): (1.0, 0.0),
    ("10*3/uL", "10^3/uL"): (1.0, 0.0),
    ("L/day", "mL/day"): (1000.0, 0.0),
    ("%", "1"): (0.01, 0.0),
}
"""Conversions that hold for every quantity; charges of single-charged ions for mEq."""
BY_SUBSTANCE: Mapping[tuple[str, str, str], float] = {
    ("glucose", "mmol/L", "mg/dL"): 18.016,
    ("crea", "umol/L", "mg/dL"): 1 / 88.42,
    ("creatinine", "umol/L", "mg/dL"): 1 / 88.42,
    ("bili", "umol/L", "mg/dL"): 1 / 17.10,
    ("bilirubin", "umol/L", "mg/dL"): 1 / 17.10,
    ("bun", "mmol/L", "mg/dL"): 2.801,
    ("lactate", "mg/dL", "mmol/L"): 1 / 9.008,
    ("calcium", "mmol/L", "mg/dL"): 4.008,
    ("magnesium", "mmol/L", "mg/dL"): 2.431,
    ("hemoglobin", "mmol/L", "g/dL"): 1.611,
}
"""Between amount and mass, by the substance's molar mass; urea counts as its nitrogen."""
DIVALENT = ("calcium", "magnesium")
"""Ions with two charges: 1 mEq is half a millimole."""


def conversion(feature: str, given: str, wanted: str) -> tuple[float, float] | None:
    """Return factor and offset from the unit ``given`` to ``wanted``; None where none is known."""
    if given == wanted:
        return 1.0, 0.0
    if (given, wanted) == ("mEq/L", "mmol/L") and any(ion in feature.lower() for ion in DIVALENT):
        return 0.5, 0.0
    if (given, wanted) in GENERAL:
        return GENERAL[given, wanted]
    factor = BY_SUBSTANCE.get((feature.lower(), given, wanted))
    return None if factor is None else (factor, 0.0)
