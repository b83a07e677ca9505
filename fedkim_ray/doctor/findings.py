"""What a check of the doctor says, and what all of them amount to."""

from collections.abc import Iterable, Sequence
from typing import Literal

from fedkim_ray.types import Frozen

Level = Literal["ok", "warn", "fail"]
MIB = 2**20
GIB = 2**30


class Finding(Frozen):
    """One check's outcome."""

    check: str
    """What was looked at: ``disk``, ``storage`` and so on."""
    where: str
    """A node's address, a client, or ``this machine``."""
    level: Level
    """``fail``: a run would stop here. ``warn``: it may run, not as it should."""
    came: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 1 where a run would fail, else 0."""
    return int(any(finding.level == "fail" for finding in findings))


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with failures first, then warnings, each in its old order."""
    order = {"fail": 0, "warn": 1, "ok": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def size(num_bytes: float) -> str:
    """Return a size for people: ``1.5 GiB``."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.1f} MiB"
