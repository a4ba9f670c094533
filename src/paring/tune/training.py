"""The stage with training: structures are pruned, raced for a few epochs, and the most promising trained for long.

Which structures there are to choose from is measured too, where a technique divides into parts (`tune/allocation.py`).
What is known of a structure before training is its measured speed, with the int8 form and backend that will follow.
How well it recovers is found by a short race. What a long training will leave of the race's drop is told by a learning
curve, drop ~ epochs^-rate (Hestness et al. 2017, Deep Learning Scaling is Predictable, there for data): the rate is
supposed at first, and corrected by the first long run. Where that one fell short, the second is that of a milder
structure, or goes on with the network of the first; where it did not, it is that of a cheaper one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import median

from paring.techniques.base import ModuleTechnique, Recipe, Technique, TrainingTechnique
from paring.tune.allocation import allocated, divided
from paring.tune.candidate import Candidate
from paring.tune.post_training import leading_tails
from paring.tune.racer import Racer, learnt_rate, milder
from paring.tune.scene import Rounds, Scene, Steps
from paring.tune.trial import Trial

STRUCTURE_VARIANTS = 5
MOST_STRUCTURES = 20
PROBE_SHARE = 0.12
PARTS_SHARE = 0.06
RACE_SHARE = 0.2
RACE_EPOCHS = 5
MOST_EPOCHS = 200
MINIMUM_EPOCH_S = 0.01
FIRST_LONG_SHARE = 0.5
"""Of the time that is left: the drop after a race is uncertain by half, so there must be time for another choice."""

LEAST_GAIN = 0.95
"""A structure is raced only if it costs at most this share of the best recipe without training."""

LUCK = 1.2
"""By so much the best of many quick figures may be too good: a lucky one must not end the stage."""
SURE = 0.9
"""A chance of a certificate above which a trained network needs no more training."""

CURVE_RATE = 0.5
"""The rate of the learning curve until the first long run tells.

ResNet-20 on CIFAR-10: 0.88 with three blocks removed (5 to 63 epochs), 0.28 with four (5 to 87).
"""


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
        raced = yield from self._race(racers)
        rate = CURVE_RATE
        for share in (FIRST_LONG_SHARE, 1.0):
            chosen = self._choose(raced, rate)
            if chosen is None:
                return
            raced.remove(chosen)
            epochs = max(self._worthwhile(chosen), self._affordable(share, chosen))
            trained = yield from self._train(chosen, epochs)
            if trained is not None:
                raced.append(trained)
                # One run's rate is as uncertain as the supposed one.
                rate = (rate + (learnt_rate(chosen, trained) or rate)) / 2

    def _affordable(self, share: float, racer: Racer) -> int:
        """Epochs in a share of the time that is left, with room for what follows a training."""
        time_s = self.scene.time_left_s() - self._untrained_s() * (1 + len(self.tails))
        return min(MOST_EPOCHS, int(share * time_s / max(MINIMUM_EPOCH_S, racer.epoch_s)))

    def structures(self) -> Sequence[Recipe]:
        """What will be probed as far as it is known beforehand: parts, and combinations of what does not divide."""
        parts = [divided(self.scene, technique) for technique in self.scene.techniques]
        pairs = zip(self.scene.techniques, parts, strict=True)
        whole = combined([self._settings(technique) for technique, found in pairs if not found])
        return [*((part,) for found in parts for part in found), *whole]

    def _settings(self, technique: Technique | type[Technique]) -> list[ModuleTechnique]:
        """What a structural technique proposes; nothing for any other kind."""
        variants = self.scene.module_variants(technique, STRUCTURE_VARIANTS)
        return [v for v in variants if not isinstance(v, TrainingTechnique)]

    def _probe(self) -> Steps[list[Racer]]:
        """Measure structures untrained on the leading tail while the time for it lasts; those worth racing."""
        left_s, tail = self.scene.time_left_s(), self.tails[0]
        until_s, parts_until_s = left_s * (1 - PROBE_SHARE), left_s * (1 - PARTS_SHARE)
        ladders: list[list[ModuleTechnique]] = []
        for technique in self.scene.techniques:
            steps = yield from allocated(
                self.scene, technique, tail, self._cost_of(tail), parts_until_s, STRUCTURE_VARIANTS
            )
            ladders.append(steps or self._settings(technique))
        racers: list[Racer] = []
        for structure in combined(ladders):
            if racers and self.scene.time_left_s() < until_s:
                break
            for trial in (yield [tail.behind(structure)]):
                # One that was tried alone before may have been given up on its drop: training is what mends that.
                if trial.outcome in ("measured", "stopped-early") and trial.drop is not None:
                    cost, deviation = self.scene.ranking.cost(trial), trial.drop_deviation or 0.0
                    racers.append(Racer(structure, cost, trial.drop, deviation))
        return self._worth_racing(racers)

    def _worth_racing(self, racers: list[Racer]) -> list[Racer]:
        """Those that gain enough and that no other one beats in both cost and harm, the cheapest first."""
        best = self.scene.ranking.best(self.trials)
        limit = LUCK * LEAST_GAIN * self.scene.ranking.cost(best) if best else float("inf")
        kept: list[Racer] = []
        for racer in sorted(racers, key=lambda r: (r.cost, r.drop)):
            if racer.cost <= limit and (not kept or racer.drop < kept[-1].drop):
                kept.append(racer)
        return kept

    def _race(self, racers: list[Racer]) -> Steps[list[Racer]]:
        """Short trainings that close in on the cheapest structure that a long one would bring within the budget.

        From one that would, on to a cheaper one; from one that would not, back to a milder one: a bisection. In the
        end a milder one than what it led to is raced too: it is what remains where a long training falls short.
        """
        raced: dict[int, Racer] = {}
        cheapest, mildest = 0, len(racers) - 1
        lap_s = RACE_SHARE * self.scene.time_left_s() / max(1, len(racers).bit_length())
        while cheapest <= mildest and self.scene.time_left_s() > 0:
            middle = (cheapest + mildest) // 2
            done = yield from self._raced(racers[middle], lap_s)
            if done is not None:
                raced[middle] = done
            if done is not None and self._promising(done, CURVE_RATE):
                mildest = middle - 1
            else:
                cheapest = middle + 1
        fallback = milder(racers, cheapest)
        if cheapest in raced and fallback is not None and fallback not in raced:
            done = yield from self._raced(racers[fallback], lap_s)
            raced |= {fallback: done} if done else {}
        return list(raced.values())

    def _raced(self, racer: Racer, time_s: float) -> Steps[Racer | None]:
        """A short training of at most so many seconds; None where that failed."""
        done = yield from self._lap(racer, 1)
        epochs = min(RACE_EPOCHS, int(time_s / done.epoch_s)) if done else 0
        if epochs > 1:
            # What an epoch takes is known now; a curve that starts at the first epoch would be too steep.
            done = yield from self._lap(racer, epochs)
        return done

    def _lap(self, racer: Racer, epochs: int) -> Steps[Racer | None]:
        """Train one for so many epochs; None where that failed."""
        for trial in (yield [self.tails[0].behind((*racer.start, self._trainer(epochs)))]):
            if trial.outcome == "measured" and trial.drop is not None:
                epoch_s = max(MINIMUM_EPOCH_S, self._training_s(trial, len(racer.start)) / epochs)
                deviation, total = trial.drop_deviation or 0.0, racer.kept_epochs + epochs
                cost = self.scene.ranking.cost(trial)
                return replace(racer, cost=cost, drop=trial.drop, deviation=deviation, epochs=total, epoch_s=epoch_s)
        return None

    def _training_s(self, trial: Trial, at: int) -> float:
        """What the training took that stands there in the recipe: a killed run has kept it, and the trial was short."""
        told = trial.coverage[at].get("apply_s") if at < len(trial.coverage) else None
        return trial.wall_time_s - self._untrained_s() if told is None else float(told)

    def _trainer(self, epochs: int) -> TrainingTechnique:
        assert self.trainer is not None
        return self.trainer.with_epochs(epochs)

    def _choose(self, raced: list[Racer], rate: float) -> Racer | None:
        """The cheapest whose drop will probably be certified if it gets all the time left; else the mildest.

        Only what may be cheaper than the best without training, and than one with it that will surely be certified.
        """
        ranking = self.scene.ranking
        best = ranking.best(self.trials)
        sure = ranking.best(t for t in self._trained() if ranking.chance(t) >= SURE)
        limit = min(
            LUCK * ranking.cost(best) if best else float("inf"),
            ranking.cost(sure) if sure else float("inf"),
        )
        pool = [r for r in raced if r.cost < limit and self._affordable(1.0, r) >= self._worthwhile(r)]
        promising = [r for r in pool if self._promising(r, rate)]
        if promising:
            return min(promising, key=lambda r: r.cost)
        return max(pool, key=lambda r: r.cost, default=None)

    def _trained(self) -> list[Trial]:
        """Trials of recipes with a training."""
        assert self.trainer is not None
        return [t for t in self.trials if any(step["technique"] == self.trainer.name for step in t.recipe)]

    @staticmethod
    def _worthwhile(racer: Racer) -> int:
        """The fewest epochs that would come to more than it was raced for."""
        return max(1, racer.epochs - racer.kept_epochs + 1)

    def _promising(self, racer: Racer, rate: float) -> bool:
        """Whether all the time that is left would probably bring a certificate within the budget."""
        ranking = self.scene.ranking
        drop = racer.after(self._affordable(1.0, racer), rate)
        return ranking.bound_at(drop, racer.deviation_at(drop, ranking.score_span)) <= self.scene.budget.max_drop

    def _cost_of(self, candidate: Candidate) -> float:
        """What a candidate was measured to cost."""
        return next(self.scene.ranking.cost(t) for t in self.trials if t.key == candidate.key)

    def _untrained_s(self) -> float:
        """What a trial takes beside its training: as long as structures took that were not trained."""
        trained = {trial.key for trial in self._trained()}
        walls = [t.wall_time_s for t in self.trials if t.stage == "training" and t.key not in trained]
        return median(walls) if walls else 0.0

    def _train(self, racer: Racer, epochs: int) -> Steps[Racer | None]:
        """A long training, then every other leading tail on the trained network; None where it failed."""
        recipe = (*racer.start, self._trainer(epochs))
        trained = yield from self._lap(racer, epochs)
        if trained is None:
            return None
        others = [tail.behind(recipe) for tail in self.tails[1:]]
        if others:
            yield others
        return replace(trained, start=recipe, kept_epochs=trained.epochs)


def combined(ladders: Sequence[Sequence[ModuleTechnique]]) -> list[Recipe]:
    """Every way to take a step of a ladder or none, of each one, the first steps first; at most MOST_STRUCTURES."""
    choices = [(None, *ladder) for ladder in ladders if ladder]
    steps = sorted(product(*(range(len(choice)) for choice in choices)), key=lambda s: (sum(s), s))
    chosen = [[choice[i] for choice, i in zip(choices, step, strict=True)] for step in steps]
    recipes: list[Recipe] = [tuple(t for t in techniques if t) for techniques in chosen if any(techniques)]
    return recipes[:MOST_STRUCTURES]
