"""The seven modalities, in the fixed order in which their tokens enter the LLM.

Text has no encoder of its own: it enters through the LLM's embeddings.
"""

from fedkim_ray.types import Modality

SERIES: tuple[Modality, ...] = ("lab", "vital", "input", "output")
"""Hourly tables: what was measured, given and drained."""

DESCRIPTIONS: dict[Modality, str] = {
    "image": "A medical image, such as a chest X-ray: grey values over a plane.",
    "signal": "An electrocardiogram: the heart's electric potential over seconds, lead by lead.",
    "text": "Text: words of a clinician or a question about the patient.",
    "lab": "Laboratory values: blood chemistry, blood count and blood gases over hours.",
    "vital": "Vital signs: blood pressure, heart rate, breathing and temperature over hours.",
    "input": "Inputs: fluids and medication given to the patient over hours.",
    "output": "Outputs: urine and drainage of the patient over hours.",
}
"""M_t, the texts that form the router's query."""

MODALITIES: tuple[Modality, ...] = tuple(DESCRIPTIONS)
ENCODED: tuple[Modality, ...] = tuple(m for m in MODALITIES if m != "text")
