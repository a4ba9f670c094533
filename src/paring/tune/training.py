"""The stage with training: structures are pruned, raced for a few epochs, and the most promising trained for long.

What is known of a structure before training is its measured speed, with the int8 form and backend that will follow.
How well it recovers is found by a short race; how much a long training improves on the race is learnt from the first
long run, so that the second one can be chosen with that knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

from paring.techniques.base import ModuleTechnique, Recipe, TrainingTechnique
from paring.tune.candidate import Candidate
from paring.tune.post_training import leading_tails
from paring.tune.scene import Rounds, Scene, Steps
from paring.tune.trial import Trial

STRUCTURE_VARIANTS = 5
MOST_STRUCTURES = 20
PROBE_SHARE = 0.12
RACE_SHARE = 0.2
RACERS = 5
RACE_EPOCHS = 5
MOST_EPOCHS = 200
MINIMUM_EPOCH_S = 0.01
FIRST_LONG_SHARE = 0.6
LEAST_GAIN = 0.95
"""A structure is raced only if it costs at most this share of the best recipe without training."""
RECOVERY = 0.4
"""What share of the drop after a race is left after a long training, until the first long run tells."""


@dataclass(frozen=True)
class Racer:
    """A structure with what is known of it: its cost untrained, the drop after its race."""

    structure: Recipe
    cost: float
    drop: float


class Training:
    """The stage as a generator of rounds."""

    def __init__(self, scene: Scene, candidates: Mapping[str, Candidate], trials: Sequence[Trial]) -> None:
        self.scene = scene
        self.candidates = candidates
        self.trials = trials
        self.tails = leading_tails(scene, candidates, trials)
        self.trainer = next(self._trainers(), None)

    def _trainers(self) -> Iterator[TrainingTechnique]:
        for technique in self.scene.techniques:
            yield from (v for v in self.scene.module_variants(technique, 1) if isinstance(v, TrainingTechnique))

    def rounds(self) -> Rounds:
        """Probe structures for speed, race the promising, train one for long, choose again, train another."""
        if self.trainer is None or not self.tails or self.scene.job.task.train is None:
            return
        racers = yield from self._probe()
        raced, epoch_s = yield from self._race(racers)
        recovery = RECOVERY
        for share in (FIRST_LONG_SHARE, 1.0):
            chosen = self._choose(raced, recovery)
            time_s = self.scene.time_left_s() - self._untrained_s() * (1 + len(self.tails))
            epochs = min(MOST_EPOCHS, int(share * time_s / epoch_s))
            if chosen is None or epochs < 1:
                return
            raced.remove(chosen)
            drop = yield from self._train(chosen, epochs)
            if drop is not None and chosen.drop > 0:
                recovery = max(0.0, drop) / chosen.drop

    def structures(self) -> Sequence[Recipe]:
        """Combinations of structural techniques, the mild ones first."""
        ladders: list[list[ModuleTechnique | None]] = []
        for technique in self.scene.techniques:
            variants = self.scene.module_variants(technique, STRUCTURE_VARIANTS)
            structural = [v for v in variants if not isinstance(v, TrainingTechnique)]
            if structural:
                ladders.append([None, *structural])
        steps = sorted(product(*(range(len(ladder)) for ladder in ladders)), key=lambda s: (sum(s), s))
        chosen = [[ladder[i] for ladder, i in zip(ladders, step, strict=True)] for step in steps]
        return [tuple(t for t in techniques if t) for techniques in chosen if any(techniques)][:MOST_STRUCTURES]

    def _candidate(self, module_part: Recipe, tail: Candidate) -> Candidate:
        return Candidate((*module_part, *tail.graph_part), tail.backend, "training")

    def _probe(self) -> Steps[list[Racer]]:
        """Measure structures untrained on the leading tail while the time for it lasts; those worth racing."""
        until_s = self.scene.time_left_s() * (1 - PROBE_SHARE)
        racers: list[Racer] = []
        for structure in self.structures():
            if racers and self.scene.time_left_s() < until_s:
                break
            for trial in (yield [self._candidate(structure, self.tails[0])]):
                if trial.outcome == "measured" and trial.drop is not None:
                    racers.append(Racer(structure, self.scene.ranking.cost(trial), trial.drop))
        return self._worth_racing(racers)

    def _worth_racing(self, racers: list[Racer]) -> list[Racer]:
        """Those that gain enough and that no other one beats in both cost and harm, spread over the costs."""
        best = self.scene.ranking.best(self.trials)
        limit = LEAST_GAIN * self.scene.ranking.cost(best) if best else float("inf")
        kept: list[Racer] = []
        for racer in sorted(racers, key=lambda r: (r.cost, r.drop)):
            if racer.cost <= limit and (not kept or racer.drop < kept[-1].drop):
                kept.append(racer)
        stride = max(1.0, (len(kept) - 1) / (RACERS - 1))
        return [kept[round(i * stride)] for i in range(min(RACERS, len(kept)))]

    def _race(self, racers: list[Racer]) -> Steps[tuple[list[Racer], float]]:
        """A short training of equal length for each; returns them with their new drops, and one epoch's time."""
        if not racers:
            return [], 1.0
        raced, epoch_s = yield from self._lap(racers[-1:], 1)
        budget_s = RACE_SHARE * self.scene.time_left_s()
        epochs = max(1, min(RACE_EPOCHS, int(budget_s / (epoch_s * len(racers)))))
        if epochs == 1:
            rest, _ = yield from self._lap(racers[:-1], 1)
            return [*rest, *raced], epoch_s
        return (yield from self._lap(racers, epochs))

    def _lap(self, racers: list[Racer], epochs: int) -> Steps[tuple[list[Racer], float]]:
        """Train each for so many epochs; those that came through, and the slowest epoch's time."""
        epoch_s = MINIMUM_EPOCH_S
        done: list[Racer] = []
        for racer in racers:
            recipe = (*racer.structure, self._trainer(epochs))
            for trial in (yield [self._candidate(recipe, self.tails[0])]):
                if trial.outcome == "measured" and trial.drop is not None:
                    done.append(replace(racer, drop=trial.drop))
                    epoch_s = max(epoch_s, (trial.wall_time_s - self._untrained_s()) / epochs)
        return done, epoch_s

    def _trainer(self, epochs: int) -> TrainingTechnique:
        assert self.trainer is not None
        return self.trainer.with_epochs(epochs)

    def _choose(self, raced: list[Racer], recovery: float) -> Racer | None:
        """The cheapest whose drop will probably be certified after a long training; else the one that lost least."""
        reserve = self._reserve()
        allowed = self.scene.budget.max_drop - reserve
        promising = [r for r in raced if r.drop * recovery <= allowed]
        if promising:
            return min(promising, key=lambda r: r.cost)
        return min(raced, key=lambda r: r.drop, default=None)

    def _reserve(self) -> float:
        """How far the certified bound of a trained structure will lie above its drop, as seen in the races."""
        trained = [t for t in self.trials if t.stage == "training" and t.drop is not None]
        gaps = [self.scene.ranking.likely_bound(t) - (t.drop or 0.0) for t in trained]
        return min(gaps, default=0.0)

    def _untrained_s(self) -> float:
        """What a trial takes beside its training: as long as structures took that were not trained."""
        assert self.trainer is not None
        walls = [
            trial.wall_time_s
            for trial in self.trials
            if trial.stage == "training" and all(t["technique"] != self.trainer.name for t in trial.recipe)
        ]
        return median(walls) if walls else 0.0

    def _train(self, racer: Racer, epochs: int) -> Steps[float | None]:
        """A long training, then every other leading tail on the trained network; the drop on the first tail."""
        recipe = (*racer.structure, self._trainer(epochs))
        trials = yield [self._candidate(recipe, self.tails[0])]
        others = [tail for tail in self.tails[1:] if trials and trials[0].outcome == "measured"]
        if others:
            yield [self._candidate(recipe, tail) for tail in others]
        return trials[0].drop if trials else None
