"""Finalists: each look at the certification split is paid for out of the ledger, told and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from paring.backends.isolated import Deployment
from paring.errors import OutputError, ParingError, TimeUpError
from paring.flow.ledger import FINALISTS, Finalist
from paring.flow.looks import ORIGINAL, Looks
from paring.flow.prepare import Prepared
from paring.tune import Candidate


class Finals:
    """Looks at finalists and remembers them on disk: a resumed run does not look twice. `note` is told each look."""

    def __init__(self, prepared: Prepared, note: Callable[[str], None]) -> None:
        self._prepared = prepared
        self._note = note
        self._looks = Looks(prepared)
        self._ledger = prepared.ledger

    @property
    def seen(self) -> tuple[Finalist, ...]:
        """All finalists so far, each by the last look at it, in the order of these looks."""
        return self._ledger.last

    @property
    def taken(self) -> tuple[Finalist, ...]:
        """All looks so far, in their order."""
        return self._ledger.looks

    @property
    def first_certified_s(self) -> float | None:
        """When something was certified for the first time; None where nothing was."""
        return min((finalist.elapsed_s for finalist in self.taken if finalist.certified), default=None)

    def look(self, candidate: Candidate, share: float) -> Finalist | None:
        """Look at the certification split at the cost of `share`; None where that is not left.

        A second look at the same candidate costs what it adds: its scores are on disk, and a bound at a larger share
        fails only where the one at the smaller share could fail as well or the difference is spent.
        Raises TimeUpError where the look would end too late: it is none then, and costs nothing.
        """
        earlier = self._ledger.of(candidate.key)
        paid = earlier.share if earlier else 0.0
        if earlier and (paid >= share or earlier.certificate is None):
            return earlier
        if share <= 0 or share - paid > self._ledger.left:
            return earlier
        finalist = replace(self._looked(candidate, share), elapsed_s=round(self._prepared.clock.spent_s, 3))
        self._ledger = self._ledger.with_look(finalist)
        self._ledger.write(self._prepared.folder.ledger_file)
        self._note(f"  {finalist.verdict}: {candidate}: {finalist.told}")
        return finalist

    @property
    def next_share(self) -> float:
        """What the next final look may cost; 0 where none is left."""
        return self._ledger.next_share

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
        certificate = replace(certificate, confidence=budget.confidence, finalists=FINALISTS, share=share)
        return Finalist(candidate.key, share, certificate, "", certified=certificate.meets(budget.max_drop))
