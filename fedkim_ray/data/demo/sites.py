"""The demo's three hospitals, and who of the real patients is where.

They differ as hospitals do: not all have every modality, their devices differ, and so do their
patients. Every trained task is held by two of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedkim_ray.data.demo.chest_xray import Scanner
from fedkim_ray.data.demo.ecg_noise import Recorder
from fedkim_ray.data.demo.icu import Patients
from fedkim_ray.types import ClientId, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One hospital."""

    positive_share: Mapping[TaskId, float]
    """Synthetic tasks that it holds, each with its share of positives."""
    scanner: Scanner | None = None
    recorder: Recorder | None = None
    patient_groups: Mapping[str, float] = field(default_factory=dict)
    """How likely a SUPPORT2 patient of a disease group is treated here, relative to other sites;
    ``""`` stands for all other groups."""
    intensive_care: bool = False
    """Whether the CLIF patients are treated here."""


CRITICAL = ("ARF/MOSF w/Sepsis", "MOSF w/Malig", "Coma")
SITES: Mapping[ClientId, Site] = {
    "harbor": Site(
        positive_share={"lung_opacity": 0.6, "covid19": 0.4, "ecg_abnormal": 0.6},
        scanner=Scanner(),
        recorder=Recorder(),
    ),
    "meadow": Site(
        positive_share={"ecg_abnormal": 0.4},
        recorder=Recorder(gain=0.85, drift_mv=0.15, muscle_mv=0.06, hum_mv=0.05),
        patient_groups={**dict.fromkeys(CRITICAL, 0.75), "": 0.25},
        intensive_care=True,
    ),
    "summit": Site(
        positive_share={"lung_opacity": 0.4, "covid19": 0.6},
        scanner=Scanner(exposure=0.06, contrast=0.85, gamma=1.1, blur_px=0.7, marker=True),
        patient_groups={**dict.fromkeys(CRITICAL, 0.25), "": 0.75},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientSplit:
    """Indices of one source's patients; no patient is in two places."""

    test: np.ndarray
    public: np.ndarray
    clients: Mapping[ClientId, np.ndarray]


def split_support2(
    patients: Patients, num_test: int, public_share: float, rng: np.random.Generator
) -> PatientSplit:
    """Draw test and public patients of all groups alike; the others go where their group is.

    Args:
        patients: All of them.
        num_test: Test patients.
        public_share: Public patients as a share of the private ones.
        rng: Source of the draw.
    """
    order = rng.permutation(len(patients))
    test, rest = order[:num_test], order[num_test:]
    num_public = round(len(rest) * public_share / (1 + public_share))
    public, private = rest[:num_public], rest[num_public:]
    names = [name for name, site in SITES.items() if site.patient_groups]
    weights = np.array(
        [
            [SITES[n].patient_groups.get(g, SITES[n].patient_groups[""]) for n in names]
            for g in patients.group[private]
        ]
    ).reshape(-1, len(names))
    upper = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    home = (rng.random((len(private), 1)) > upper[:, :-1]).sum(1)
    clients = {name: private[home == i] for i, name in enumerate(names)}
    return PatientSplit(test=test, public=public, clients=clients)


def split_clif(
    patients: Patients, test_share: float, public_share: float, rng: np.random.Generator
) -> PatientSplit:
    """Draw test and public patients; the others are at the sites with intensive care."""
    order = rng.permutation(len(patients))
    ends = np.cumsum([round(len(order) * test_share), round(len(order) * public_share)])
    test, public, private = np.split(order, ends)
    names = [name for name, site in SITES.items() if site.intensive_care]
    parts = np.array_split(private, len(names))
    return PatientSplit(test=test, public=public, clients=dict(zip(names, parts, strict=True)))
