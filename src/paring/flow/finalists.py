"""Finalists: each looks once at the certification split, and what may go wrong is spent with every look.

The confidence leaves (1 - confidence) to go wrong. Each look spends a share of that, and the shares of one output
folder never add up to more than all of it, however often the run is resumed: so all its certificates hold together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from paring.artifact.files import read_json, write_json
from paring.backends.isolated import Deployment
from paring.certify import Certificate
from paring.errors import OutputError, ParingError, TimeUpError
from paring.flow.looks import ORIGINAL, Looks
from paring.flow.prepare import FINAL_SHARE, FINALISTS, LAST_SHARE, Prepared
from paring.tune import Candidate


@dataclass(frozen=True)
class Finalist:
    """A candidate that was looked at, at the cost of `share`: its certificate, or why it has none.

    `elapsed_s` is what the run had spent when it was known.
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
        return self.reason if self.certificate is None else str(self.certificate)


class Finals:
    """Looks at finalists and remembers them on disk: a resumed run does not look twice."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._looks = Looks(prepared)
        self._log = prepared.folder.trials / "finalists.json"
        self._seen = self._read()

    @property
    def seen(self) -> tuple[Finalist, ...]:
        """All finalists so far, in the order of their looks."""
        return tuple(self._seen.values())

    @property
    def first_certified_s(self) -> float | None:
        """When something was certified for the first time; None where nothing was."""
        return min((finalist.elapsed_s for finalist in self.seen if finalist.certified), default=None)

    def look(self, candidate: Candidate, share: float) -> Finalist | None:
        """Look at the certification split at the cost of `share`; None where that is not left.

        A second look at the same candidate costs what it adds: its scores are on disk, and a bound at a larger share
        fails only where the one at the smaller share could fail as well or the difference is spent.
        Raises TimeUpError where the look would end too late: it is none then, and costs nothing.
        """
        earlier = self._seen.get(candidate.key)
        paid = earlier.share if earlier else 0.0
        if earlier and (paid >= share or earlier.certificate is None):
            return earlier
        if share <= 0 or sum(finalist.share for finalist in self.seen) - paid + share > 1 + 1e-9:
            return earlier
        finalist = self._looked(candidate, share)
        known_s = earlier.elapsed_s if earlier and earlier.certified else round(self._prepared.clock.spent_s, 1)
        finalist = replace(finalist, elapsed_s=known_s)
        self._seen[candidate.key] = finalist
        write_json(self._log, {"looks": [_as_json(f) for f in self.seen]})
        return finalist

    @property
    def next_share(self) -> float:
        """What the next look may cost; 0 where none is left."""
        left = 1 + 1e-9 - sum(finalist.share for finalist in self.seen)
        return next((share for share in (FINAL_SHARE, LAST_SHARE) if share <= left), 0.0)

    def deployment(self, candidate: Candidate) -> Deployment:
        """The candidate's network in its backend, until the end of the run."""
        networks = self._prepared.networks
        network = networks.build(candidate).network
        return Deployment(candidate.backend, network, networks.signature, deadline_s=networks.job.end_s)

    def _looked(self, candidate: Candidate, share: float) -> Finalist:
        later_s = self._looks.bootstraps_s(ORIGINAL, candidate.key)
        self._looks.score(ORIGINAL, self._prepared.original, later_s)
        try:
            self._looks.score(candidate.key, self.deployment(candidate), later_s)
        except (OutputError, TimeUpError):
            raise  # Neither is a verdict on the candidate.
        except ParingError as error:  # A network that fails on these rows is no finalist, and the run goes on.
            return Finalist(candidate.key, share, None, str(error), certified=False)
        budget = self._prepared.request.budget
        certificate = self._looks.certificate(candidate.key, 1 - (1 - budget.confidence) * share)
        certificate = replace(certificate, confidence=budget.confidence, finalists=FINALISTS)
        return Finalist(candidate.key, share, certificate, "", certified=certificate.meets(budget.max_drop))

    def _read(self) -> dict[str, Finalist]:
        if not self._log.is_file():
            return {}
        try:
            return {row["key"]: _from_json(row) for row in read_json(self._log)["looks"]}
        except (KeyError, TypeError) as error:
            raise OutputError(f"{self._log} holds no looks ({error!r}): pass --fresh to begin anew.") from error


def _as_json(finalist: Finalist) -> dict[str, Any]:
    certificate = finalist.certificate.to_json() if finalist.certificate else None
    return {**asdict(finalist), "certificate": certificate}


def _from_json(row: dict[str, Any]) -> Finalist:
    certificate = Certificate.from_json(row["certificate"]) if row["certificate"] else None
    return Finalist(**{**row, "certificate": certificate})
