"""The 48 hourly features of MIMIC-III: their units and limits, and the items that measure them.

A feature is charted under several numbers (ITEMID): the hospital changed its system from CareVue
(numbers below 200,000) to MetaVision. Each item has a unit of its own; ``units`` says how a table's
text of the unit leads to the feature's. Values outside ``low`` to ``high`` are not physiologically
possible: they are counted and not used. CareVue's rates in mcg/min need the patient's weight: they
are not used either, and their hours are missing. Of its outputs urine alone is read.

Source of the numbers and most limits: Johnson et al. 2018, the MIMIC Code Repository,
https://doi.org/10.1093/jamia/ocx084, concepts ``pivot`` and ``durations``, and its mapping of
outputs, https://github.com/MIT-LCP/mimic-code
"""

from collections.abc import Mapping
from typing import NamedTuple

from fedkim_ray.data.schema import FeatureSpec, SeriesSpec
from fedkim_ray.types import Modality


class Feature(NamedTuple):
    """One column of a grid."""

    name: str
    unit: str
    low: float
    high: float
    items: tuple[int, ...]
    factors: Mapping[str, float] = {}
    """Factor to ``unit`` by the table's text of another unit, in lower case."""


MMOL = {"meq/l": 1.0}
RATE = {"mcg/kg/min": 1.0, "mcgkgmin": 1.0, "mcg/kg/hour": 1 / 60}
VITAL = (
    Feature("heart_rate", "1/min", 1, 300, (211, 220045), {"bpm": 1.0}),
    Feature("systolic_bp", "mmHg", 1, 400, (51, 442, 455, 6701, 220179, 220050)),
    Feature("diastolic_bp", "mmHg", 1, 300, (8368, 8440, 8441, 8555, 220180, 220051)),
    Feature("mean_bp", "mmHg", 1, 300, (456, 52, 6702, 443, 220052, 220181, 225312)),
    Feature("respiratory_rate", "1/min", 1, 70, (615, 618, 220210, 224690),
            {"insp/min": 1.0, "bpm": 1.0}),
    Feature("temperature", "degC", 25, 46, (676, 223762, 678, 223761)),
    Feature("spo2", "%", 1, 100, (646, 220277)),
    Feature("bedside_glucose", "mg/dL", 5, 2000,
            (807, 811, 1529, 3745, 3744, 225664, 220621, 226537)),
    Feature("fio2", "%", 20, 100, (3420, 223835, 190)),
    Feature("gcs_eye", "1", 1, 4, (184, 220739)),
    Feature("gcs_verbal", "1", 1, 5, (723, 223900)),
    Feature("gcs_motor", "1", 1, 6, (454, 223901)),
)  # fmt: skip
FAHRENHEIT = (678, 223761)
"""Items charted in degrees Fahrenheit, whatever their unit says."""
FRACTION = (190,)
"""Items charted as a fraction of 1 and not in percent."""
LAB = (
    Feature("anion_gap", "mmol/L", -20, 80, (50868,), MMOL),
    Feature("albumin", "g/dL", 0.5, 10, (50862,)),
    Feature("bands", "%", 0, 100, (51144,)),
    Feature("bicarbonate", "mmol/L", 1, 80, (50882,), MMOL),
    Feature("bilirubin", "mg/dL", 0.05, 100, (50885,)),
    Feature("creatinine", "mg/dL", 0.05, 50, (50912,)),
    Feature("chloride", "mmol/L", 40, 180, (50902,), MMOL),
    Feature("glucose", "mg/dL", 5, 2000, (50931,)),
    Feature("hematocrit", "%", 5, 80, (51221,)),
    Feature("hemoglobin", "g/dL", 1, 30, (51222,)),
    Feature("lactate", "mmol/L", 0.1, 50, (50813,)),
    Feature("platelets", "10^3/uL", 1, 3000, (51265,), {"k/ul": 1.0}),
    Feature("potassium", "mmol/L", 1, 15, (50971,), MMOL),
    Feature("ptt", "s", 10, 150, (51275,), {"sec": 1.0}),
    Feature("inr", "1", 0.5, 50, (51237,), {"ratio": 1.0}),
    Feature("pt", "s", 5, 150, (51274,), {"sec": 1.0}),
    Feature("sodium", "mmol/L", 90, 200, (50983,), MMOL),
    Feature("bun", "mg/dL", 0.5, 300, (51006,)),
    Feature("wbc", "10^3/uL", 0, 1000, (51300, 51301), {"k/ul": 1.0}),
    Feature("ph", "1", 6.3, 8.4, (50820,), {"units": 1.0}),
    Feature("po2", "mmHg", 10, 800, (50821,), {"mm hg": 1.0}),
    Feature("pco2", "mmHg", 5, 250, (50818,), {"mm hg": 1.0}),
    Feature("calcium", "mg/dL", 2, 25, (50893,)),
    Feature("magnesium", "mg/dL", 0.2, 20, (50960,)),
    Feature("phosphate", "mg/dL", 0.2, 30, (50970,)),
)
INPUT = (
    Feature("norepinephrine", "ug/kg/min", 0, 5, (221906, 30120, 30047), RATE),
    Feature("epinephrine", "ug/kg/min", 0, 5, (221289, 30119, 30309, 30044), RATE),
    Feature("phenylephrine", "ug/kg/min", 0, 15, (221749, 30128, 30127), RATE),
    Feature("dopamine", "ug/kg/min", 0, 50, (221662, 30043, 30307), RATE),
    Feature("dobutamine", "ug/kg/min", 0, 50, (221653, 30042, 30306), RATE),
    Feature("vasopressin", "units/h", 0, 10, (222315, 30051),
            {"units/hour": 1.0, "u/hr": 1.0, "units/min": 60.0, "umin": 60.0, "u/min": 60.0}),
    Feature("crystalloid", "mL/h", 0, 10_000, (225158, 225828, 225159, 225823, 225825, 225827,
            225941, 30015, 30018, 30020, 30021, 30060, 30061, 30159, 30160),
            {"ml": 1.0, "l": 1000.0}),
)  # fmt: skip
BY_WEIGHT = (30047, 30044, 30127)
"""Items charted in mcg/min, whatever their unit says."""
VOLUME = (6,)
"""Places in ``INPUT`` of fluids: their AMOUNT counts, not their RATE."""
OUTPUT = (
    Feature("urine", "mL", 0, 5000, (40055, 43175, 40069, 40094, 40715, 40473, 40085, 40057, 40056,
            40405, 40428, 40086, 40096, 40651, 226559, 226560, 226561, 226584, 226563, 226564,
            226565, 226567, 226557, 226558)),
    Feature("gastric", "mL", 0, 5000, (226573, 226575, 226576, 226571)),
    Feature("stool", "mL", 0, 5000, (226579,)),
    Feature("chest_tube", "mL", 0, 5000, (226588, 226589)),
)  # fmt: skip
FEATURES: Mapping[Modality, tuple[Feature, ...]] = {
    "lab": LAB, "vital": VITAL, "input": INPUT, "output": OUTPUT,
}  # fmt: skip


def series_specs(hours: int) -> dict[Modality, SeriesSpec]:
    """Return the specification of every modality."""
    return {
        modality: SeriesSpec(
            hours=hours,
            features=tuple(
                FeatureSpec(name=f.name, unit=f.unit, low=f.low, high=f.high) for f in features
            ),
        )
        for modality, features in FEATURES.items()
    }
