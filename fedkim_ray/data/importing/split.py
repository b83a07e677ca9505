"""Who is where: a pure function of subject and seed, so adding data moves no one.

    u = u("split", subject)      u < test share                -> test
                                 u < test share + public share -> public
                                 else                          -> a client
    client: iid                  the n-th, n = floor(N * u("client", subject))
            site                 the hospital that the source names; see ``client_name``
            dirichlet:ALPHA      p_l ~ Dirichlet(ALPHA) for each label l; the subject draws from p_l
    within a client              u("valid", subject) < valid share -> valid, else train

Source of the Dirichlet partition: Hsu et al. 2019, https://arxiv.org/abs/1909.06335
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fedkim_ray.data.importing.keys import SubjectKey
from fedkim_ray.errors import DataError
from fedkim_ray.types import ClientId, Frozen

Kind = Literal["test", "public", "private"]
KINDS: tuple[Kind, ...] = ("test", "public", "private")
"""In the order in which a subject that would be in several is put into one."""


class SplitRule(Frozen):
    """How subjects are divided; the shares are of all subjects."""

    seed: NonNegativeInt = 0
    test_share: float = Field(0.1, ge=0.0, lt=1.0)
    public_share: float = Field(0.1, ge=0.0, lt=1.0)
    valid_share: float = Field(0.1, ge=0.0, lt=1.0)
    """Of a client's subjects."""
    partition: Literal["iid", "site", "dirichlet"] = "iid"
    alpha: PositiveFloat = 1.0
    """Of ``dirichlet``: the smaller, the more the clients differ."""
    clients: PositiveInt = 3
    """Number of clients of ``iid`` and ``dirichlet``; ``site`` takes those that there are."""

    @model_validator(mode="after")
    def _something_is_private(self) -> "SplitRule":
        if self.test_share + self.public_share >= 1.0:
            raise ValueError("test and public shares leave nothing for the clients")
        return self

    def __str__(self) -> str:
        clients = "by site" if self.partition == "site" else f"{self.clients} clients, iid"
        if self.partition == "dirichlet":
            clients = f"{self.clients} clients, Dirichlet({self.alpha:g}) by label"
        return (
            f"by subject with a keyed hash, seed {self.seed}: {self.test_share:.0%} test, "
            f"{self.public_share:.0%} public, the rest private ({clients}; "
            f"{self.valid_share:.0%} of each for validation)"
        )


def parse_partition(text: str) -> dict[str, object]:
    """Return the fields that ``site``, ``iid`` or ``dirichlet:ALPHA`` sets.

    Raises:
        DataError: it is none of them.
    """
    match = re.fullmatch(r"(site|iid)|dirichlet:(\d+\.?\d*|\.\d+)", text)
    if match is None or (match[2] and float(match[2]) == 0.0):
        raise DataError(
            f"Partition {text!r} is not known.",
            "It is `site`, `iid`, or `dirichlet:ALPHA` with ALPHA above 0.",
            "For example --partition dirichlet:0.5.",
        )
    if match[1]:
        return {"partition": match[1]}
    return {"partition": "dirichlet", "alpha": float(match[2])}


@dataclass(frozen=True, slots=True)
class Splitter:
    """The rule and the key, applied; ``subject`` is a keyed subject id everywhere here."""

    rule: SplitRule
    key: SubjectKey

    def kind(self, subject: str) -> Kind:
        """Return which part of the data root a subject is in."""
        u = self.key.uniform("split", self.rule.seed, subject)
        if u < self.rule.test_share:
            return "test"
        return "public" if u < self.rule.test_share + self.rule.public_share else "private"

    def client(self, subject: str, site: str, label: str) -> ClientId:
        """Return a private subject's client.

        Args:
            subject: Keyed subject id.
            site: Hospital, where the source names it.
            label: The subject's stratum, for ``dirichlet``.
        """
        if self.rule.partition == "site":
            return client_name(site)
        u = self.key.uniform("client", self.rule.seed, subject)
        if self.rule.partition == "iid":
            return numbered_client(int(u * self.rule.clients), self.rule.clients)
        upper = list(accumulate(self._shares(label)))
        index = next((i for i, p in enumerate(upper) if u < p), self.rule.clients - 1)
        return numbered_client(index, self.rule.clients)

    def _shares(self, label: str) -> list[float]:
        """Return p_l, from (seed, label) alone: private keys change who is drawn, not these."""
        rng = np.random.default_rng([self.rule.seed, *label.encode()])
        shares: list[float] = rng.dirichlet([self.rule.alpha] * self.rule.clients).tolist()
        return shares

    def valid_rank(self, subject: str) -> float:
        """Return u("valid", subject)."""
        return self.key.uniform("valid", self.rule.seed, subject)


def numbered_client(index: int, count: int) -> ClientId:
    """Return the name of client ``index`` of ``count``: equal widths, so that they sort."""
    return f"client-{index:0{len(str(count - 1))}d}"


def client_name(site: str) -> ClientId:
    """Return a hospital's name as the name of a folder: another one for every other hospital.

    Case, and whether blanks or hyphens divide words, make no other hospital. Where more is lost,
    a hash of the name follows.
    """
    name = "-".join(unicodedata.normalize("NFC", site).lower().split())
    plain = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    if plain == name:
        return plain
    return f"{plain or 'site'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
