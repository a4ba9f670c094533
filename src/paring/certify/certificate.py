"""The statement "with this confidence the score drops by at most so much", with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from paring.errors import ArtifactError, InputError

Method = Literal["exact", "betting", "bootstrap"]


@dataclass(frozen=True)
class Certificate:
    """With `confidence`, the candidate's mean score is at most `upper_bound` below the original's.

    `drop` is what was seen on the `n` rows, in the metric's unit, below 0 where the candidate scores higher. The bound
    holds for all `finalists` together (Bonferroni: each has its `share` of what may go wrong, None for equal ones, and
    is made at a confidence of 1 - share (1 - confidence)). `regressions` counts the rows that went from right to wrong,
    `fixes` the other way; None where scores are not just right or wrong.
    `method` "exact" and "betting" hold at this n; "bootstrap" holds approximately, as n grows.
    """

    drop: float
    upper_bound: float
    confidence: float
    n: int
    method: Method
    finalists: int = 1
    regressions: int | None = None
    fixes: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method={self.method!r} is unknown: it is one of {', '.join(get_args(Method))}.")
        check_confidence(self.confidence, self.finalists)
        if self.n < 1:
            raise InputError(f"n={self.n} must be 1 or more: a certificate rests on rows.")
        if not (math.isfinite(self.drop) and self.drop <= self.upper_bound < math.inf):
            raise InputError(f"upper_bound={self.upper_bound} must be finite and no less than drop={self.drop}.")

    @property
    def approximate(self) -> bool:
        """Whether the bound holds only as n grows."""
        return self.method == "bootstrap"

    def meets(self, max_drop: float) -> bool:
        """Whether the drop is certified to be `max_drop` at most."""
        return self.upper_bound <= max_drop

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return asdict(self) | {"approximate": self.approximate}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_json`; unknown keys are passed over. Raises ArtifactError where it is damaged."""
        try:
            return cls(
                drop=values["drop"],
                upper_bound=values["upper_bound"],
                confidence=values["confidence"],
                n=values["n"],
                method=values["method"],
                finalists=values.get("finalists", 1),
                regressions=values.get("regressions"),
                fixes=values.get("fixes"),
                share=values.get("share"),
            )
        except (InputError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"the certificate {dict(values)} can't be read ({error}): run optimize again."
            ) from error

    def __str__(self) -> str:
        shared = f", shared by {self.finalists} finalists" if self.finalists > 1 else ""
        counts = "" if self.regressions is None else f", {self.regressions} regressions and {self.fixes} fixes"
        kind = f"{self.method}, approximate" if self.approximate else self.method
        return (
            f"drop at most {self.upper_bound:.4g} with {self.confidence:.4g} confidence{shared} "
            f"(seen {self.drop:.4g} on {self.n} rows{counts}; {kind})"
        )


def check_confidence(confidence: float, finalists: int) -> None:
    """Raise InputError unless 0.5 <= confidence < 1 and there is a finalist."""
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence={confidence} must be at least 0.5 and below 1, for example 0.95.")
    if finalists < 1:
        raise InputError(
            f"finalists={finalists} must be 1 or more: the number of candidates that are certified together."
        )


def error_share(confidence: float, finalists: int) -> float:
    """What may go wrong with one finalist so that all together hold with `confidence` (Bonferroni)."""
    check_confidence(confidence, finalists)
    return (1 - confidence) / finalists
