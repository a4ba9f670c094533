"""Search: ask for the next candidates, tell what came of them. Every decision is made in this room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paring.tune.candidate import Candidate
from paring.tune.post_training import Refinement, asked_recipes, first_baselines, first_techniques, other_baselines
from paring.tune.scene import Round, Rounds, Scene
from paring.tune.training import Training
from paring.tune.trial import Trial


class Search:
    """A staged, cost-aware search. The same scene and the same trials give the same candidates.

    Stages: the original on each backend; whole recipes that were asked for; the first settings of each technique; the
    backends' other options; more settings, preparation and gentler forms around the leaders; then, with training data,
    structures.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.trials: list[Trial] = []
        self._candidates: dict[str, Candidate] = {}
        self._stages = self._chain()
        self._stage: Rounds | None = next(self._stages, None)
        self._answer: Sequence[Trial] | None = None

    def _chain(self) -> Iterator[Rounds]:
        yield first_baselines(self.scene)
        yield asked_recipes(self.scene)
        yield first_techniques(self.scene)
        yield other_baselines(self.scene, self.trials)
        yield Refinement(self.scene, self._candidates, self.trials).rounds()
        yield Training(self.scene, self._candidates, self.trials).rounds()

    def ask(self) -> Round:
        """The next round of candidates that were not tried before; empty when the search is over."""
        while self._stage is not None:
            try:
                asked = next(self._stage) if self._answer is None else self._stage.send(self._answer)
            except StopIteration:
                self._stage, self._answer = next(self._stages, None), None
                continue
            fresh = self._unseen(asked)
            if fresh:
                return fresh
            self._answer = self._known(asked)
        return []

    def tell(self, asked: Round, trials: Sequence[Trial]) -> None:
        """What came of a round; fewer trials than candidates where the time ran out."""
        self.trials.extend(trials)
        self._answer = list(trials)

    def _unseen(self, asked: Round) -> Round:
        fresh = {c.key: c for c in asked if c.key not in self._candidates}
        self._candidates.update(fresh)
        return list(fresh.values())

    def _known(self, asked: Round) -> Sequence[Trial]:
        """The trials of candidates that were all tried in an earlier stage."""
        keys = {candidate.key for candidate in asked}
        return [trial for trial in self.trials if trial.key in keys]
