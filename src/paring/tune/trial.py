"""Trial: a candidate that was tried, with what was measured; one line of trials.jsonl."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from paring.ops.intervals import quotient
from paring.techniques.base import described
from paring.tune.candidate import Candidate, backend_json, recipe_json

Outcome = Literal["measured", "stopped-early", "failed", "no-change", "skipped"]


@dataclass(frozen=True)
class Speedup:
    """Time of the reference divided by time of the candidate, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    def over(self, other: Speedup) -> Speedup:
        """Of two speed-ups over one reference the first over the second, their errors taken as independent."""
        mine, theirs = ((each.ratio, each.low, each.high) for each in (self, other))
        return Speedup(*quotient(mine, theirs))


EVEN = Speedup(1.0, 1.0, 1.0)
"""Of a network over itself."""


@dataclass(frozen=True)
class Trial:
    """What came of a candidate. `drop` is measured on the first `rows` rows of the selection split.

    `drop_deviation` is the standard deviation over rows of the paired difference; `speedup` is over the original on
    the backend that `reference` names; `at_length` tells that the times are those of a comparison at length, not of the
    search's quick ones; `elapsed_s` is what the run had spent when the trial ended, and
    `search_limit_s` what its search was allowed; `train_at_fault` marks a training that could not use the task's
    `train`, `refused` a technique that told why it can't be applied. `part` is that of the candidate: a layer, a group
    of them or a block, and the share of it that was taken. `sparse` tells that the file is smaller
    for the zeros that it leaves out (see `artifact.packed`).
    """

    key: str
    number: int
    stage: str
    recipe: list[dict[str, Any]]
    recipe_text: str
    backend: dict[str, Any]
    backend_text: str
    outcome: Outcome
    reason: str = ""
    train_at_fault: bool = False
    refused: bool = False
    latency_ms: dict[str, float] | None = None
    throughput_per_s: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    score: float | None = None
    drop: float | None = None
    drop_deviation: float | None = None
    rows: int = 0
    speedup: Speedup | None = None
    reference: str = ""
    at_length: bool = False
    coverage: list[dict[str, Any]] = field(default_factory=list)
    wall_time_s: float = 0.0
    elapsed_s: float = 0.0
    search_limit_s: float = 0.0
    frontier: bool = False
    part: tuple[str, float] | None = None
    sparse: bool = False

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.recipe_text} on {self.backend_text}"

    @classmethod
    def of(cls, candidate: Candidate, number: int, outcome: Outcome, reason: str = "") -> Trial:
        """A trial of which nothing is measured yet."""
        return cls(
            key=candidate.key,
            number=number,
            stage=candidate.stage,
            recipe=recipe_json(candidate.recipe),
            recipe_text=described(candidate.recipe),
            backend=backend_json(candidate.backend),
            backend_text=str(candidate.backend),
            outcome=outcome,
            reason=reason,
            part=candidate.part,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trial:
        """The inverse of `to_json`."""
        speedup, part = values.get("speedup"), values.get("part")
        found = {"speedup": Speedup(**speedup) if speedup else None, "part": tuple(part) if part else None}
        return cls(**{**values, **found})
