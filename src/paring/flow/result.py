"""Result: the answer of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paring.artifact import Artifact
from paring.tune import Trial

Status = Literal["improved", "kept-original", "infeasible"]


@dataclass(frozen=True)
class Result:
    """What `optimize` found. `values` is result.json; `best` and `frontier` are artifacts on disk."""

    status: Status
    reason: str
    best: Artifact | None
    frontier: tuple[Artifact, ...]
    trials: tuple[Trial, ...]
    report: Path
    values: dict[str, Any]
