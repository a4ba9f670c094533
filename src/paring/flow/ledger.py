"""The ledger: what looks at the certification rows have cost in an output folder.

The confidence leaves (1 - confidence) to go wrong. Each look spends a share of that, and the shares of a run's looks
never add up to more than all of it, however often the run is resumed: so all its certificates hold together. A run that
was discarded is another matter, and who starts afresh until something passes has that many chances: so its looks at the
same rows are counted and told with each certificate that follows, which holds for its own run alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from paring.artifact.files import write_json
from paring.certify import Certificate
from paring.errors import OutputError, ParingError

FINALISTS = 3
"""One certified early, so that a run that is cut short has an answer, and two at the end."""

EARLY_SHARE = 0.1
FINAL_SHARE = 0.6
LAST_SHARE = 0.3
"""Of what may go wrong (1 - confidence): an early look and two final ones, of which the first is the most ambitious."""

ALL = 1 + 1e-9
"""Shares are added up in floating point."""


@dataclass(frozen=True)
class Finalist:
    """One look at a candidate, at the cost of `share`: its certificate, or why it has none.

    Where the candidate was looked at before, `share` holds what that look had cost. `elapsed_s` is what the run had
    spent when it was known.
    """

    key: str
    share: float
    certificate: Certificate | None
    reason: str
    certified: bool
    elapsed_s: float = 0.0

    @property
    def verdict(self) -> str:
        """In words."""
        return "certified" if self.certified else "not certified"

    @property
    def told(self) -> str:
        """The evidence, or the failure."""
        shown = self.reason if self.certificate is None else str(self.certificate)
        return f"at {self.share:.0%} of the error that the confidence leaves: {shown}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "certificate": self.certificate.to_json() if self.certificate else None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Finalist:
        """The inverse of `to_json`."""
        certificate = values["certificate"]
        return cls(**{**values, "certificate": Certificate.from_json(certificate) if certificate else None})


@dataclass(frozen=True)
class Ledger:
    """The `looks` of a run at rows of that digest, in the order in which they were taken.

    `discarded` counts, by the digest of the rows, the looks whose runs were discarded: what they showed may have led to
    the run that came instead.
    """

    rows: str = ""
    looks: tuple[Finalist, ...] = ()
    discarded: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Ledger:
        """What a file holds; nothing where there is none. Raises OutputError where it is damaged."""
        if not file.is_file():
            return cls()
        try:
            values = json.loads(file.read_bytes())
            looks = tuple(Finalist.from_json(look) for look in values["looks"])
            return cls(values["rows"], looks, {rows: int(count) for rows, count in values["discarded"].items()})
        except (ParingError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{file} does not tell which looks at the certification rows were taken ({error!r}): "
                "choose another --out."
            ) from error

    def write(self, file: Path) -> None:
        """Whole or not at all. Raises OutputError where the disk refuses."""
        looks = [look.to_json() for look in self.looks]
        write_json(file, {"rows": self.rows, "looks": looks, "discarded": dict(self.discarded)})

    def at(self, rows: str) -> Ledger:
        """For a run at rows of that digest: looks at others are none of its own."""
        return self if rows == self.rows else replace(self.without_looks(), rows=rows)

    def without_looks(self) -> Ledger:
        """When their run is discarded: they are counted."""
        counted = {self.rows: self.before + len(self.looks)} if self.looks else {}
        return Ledger(self.rows, (), {**self.discarded, **counted})

    def with_look(self, look: Finalist) -> Ledger:
        """With one more. An earlier one at the same candidate stays: what it showed was told."""
        return replace(self, looks=(*self.looks, look))

    @property
    def last(self) -> tuple[Finalist, ...]:
        """The last look at each candidate, in the order of these looks: its share holds those before."""
        found: dict[str, Finalist] = {}
        for look in self.looks:
            found.pop(look.key, None)  # So that it comes behind those that were taken in between.
            found[look.key] = look
        return tuple(found.values())

    def of(self, key: str) -> Finalist | None:
        """The last look at the candidate of that key; None where there was none."""
        return next((look for look in self.last if look.key == key), None)

    @property
    def before(self) -> int:
        """Looks at these rows whose runs were discarded."""
        return self.discarded.get(self.rows, 0)

    @property
    def left(self) -> float:
        """What looks of this run may still cost."""
        return ALL - sum(look.share for look in self.last)

    @property
    def next_share(self) -> float:
        """What the next final look may cost; 0 where none is left."""
        return next((share for share in (FINAL_SHARE, LAST_SHARE) if share <= self.left), 0.0)
