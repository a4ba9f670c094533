"""The stage with training: structures are pruned, raced for a few epochs, and the most promising trained for long.

Which structures there are to choose from is measured (`tune/structures.py`), and so is which training there is, if
several are given: the first one races the structures, and the others race it on the structure that it would train for
long. What is known of a structure before training is its measured speed, with the int8 form and backend that will
follow. How well it recovers is found by a short race. What a long training will leave of the race's drop is told by a
learning curve, drop ~ epochs^-rate (Hestness et al. 2017, Deep Learning Scaling is Predictable, there for data): the
rate is supposed at first, and corrected by each long run. Where that fell short, the next is that of a milder
structure, or goes on with the network of the first; where it did not, it is that of a cheaper one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import median

from paring.errors import TrainDataError
from paring.tune.candidate import Candidate
from paring.tune.post_training import leading_tails
from paring.tune.preparing import SURE, may_gain, meets, needless
from paring.tune.proposing import kind_of
from paring.tune.racer import Racer, learnt_rate, milder, small_enough
from paring.tune.ranking import LUCK
from paring.tune.rivals import rivals, tell_no_rivals
from paring.tune.scene import Rounds, Scene, Steps
from paring.tune.structures import probed
from paring.tune.trainers import Trainer, is_training, shrinkers, tell_untrained, trainers, with_tails
from paring.tune.trial import Trial

RACE_SHARE = 0.2
RACE_EPOCHS = 5
MINIMUM_EPOCH_S = 0.01
FIRST_LONG_SHARE = 0.5
"""Of the time that is left: the drop after a race is uncertain by half, so there must be time for another choice."""

CLEARLY_LESS = 0.5
"""Another training takes over where it promises at most this share of the drop.

A short race favours what learns fast, and on a few thousand rows the drops after it are uncertain by a quarter.
"""

LONG_TRAININGS = 2
"""So many may also serve to make a certificate surer; those that follow have to promise a cheaper network."""

EVEN = 0.5
"""A chance that is enough after LONG_TRAININGS: only a cheaper network is worth more time then."""

CURVE_RATE = 0.5
"""The rate of the learning curve until the first long run tells.

ResNet-20 on CIFAR-10: 0.88 with three blocks removed (5 to 63 epochs), 0.28 with four (5 to 87).
"""

NOT_WORTH_IT = "no smaller network was worth a long training in the time that was left, so it was not raced."
NO_TIME = "the time that was left held no race against another training."


class Training:
    """The stage as a generator of rounds."""

    def __init__(self, scene: Scene, candidates: Mapping[str, Candidate], trials: Sequence[Trial]) -> None:
        self.scene = scene
        self.trials = trials
        leading = partial(leading_tails, scene, candidates, trials)
        self.tails = leading(())
        self.shrinkers = with_tails(shrinkers(scene), leading)
        every = with_tails(trainers(scene), leading)
        self.preparing = [trainer for trainer in every if trainer.technique.prepares]
        self.trainers = [each for each in every if meets(scene, trials, each, self.tails[0])] or every

    def rounds(self) -> Rounds:
        """Probe structures for speed, race the promising, train one for long, choose again, train another.

        Where a training can't use the user's data no other one could: there is no further one, which is told.
        """
        if not self.tails:
            return
        raced: list[Racer] = []
        alone = self.preparing
        try:
            if self.trainers:
                racers = yield from probed(self.scene, self.trials, self.trainers[0])
                raced = (yield from self._races(racers)) if racers else []
                alone = [trainer for trainer in alone if not racers or trainer not in self.trainers]
            alone = [trainer for trainer in alone if may_gain(self.scene, self.trials, trainer)]
            raced += yield from self._from_original([*self.shrinkers, *alone])
            yield from self._train_for_long(raced)
        except TrainDataError as error:
            tell_untrained(self.scene, f"no further training, since every one would fail as the last: {error}")

    def _from_original(self, waiting: Sequence[Trainer]) -> Steps[list[Racer]]:
        """Races of trainings that need no smaller network. Those that would only make surer what is sure are over."""
        lap_s = RACE_SHARE * self.scene.time_left_s() / max(1, len(waiting))
        raced: list[Racer] = []
        for trainer in waiting:
            # What it will cost is not known before the first epoch, nor does it matter before that.
            done = yield from self._raced(Racer((), trainer, cost=0.0, drop=0.0, deviation=0.0), lap_s)
            raced += [done] if done and not needless(self.scene, self.trials, trainer) else []
        return raced

    def _races(self, racers: Sequence[Racer]) -> Steps[list[Racer]]:
        """Race the structures with the first training that works, and the other trainings where it is best."""
        raced_for = [replace(racer, epochs=RACE_EPOCHS) for racer in racers]
        others = max((sum(1 for _ in rivals(self.scene, racer)) for racer in raced_for), default=0)
        laps = len(racers).bit_length() + len(self.trainers) - 1 + others
        lap_s = RACE_SHARE * self.scene.time_left_s() / laps
        raced: list[Racer] = []
        waiting = list(self.trainers)
        while waiting and not raced:
            first = waiting.pop(0)
            raced = yield from self._race([replace(racer, trainer=first) for racer in racers], lap_s)
        for other in waiting:
            raced = yield from self._challenged(raced, other, lap_s)
        return (yield from self._recast(raced, lap_s))

    def _race(self, racers: Sequence[Racer], lap_s: float) -> Steps[list[Racer]]:
        """Short trainings that close in on the cheapest structure that a long one would bring within the budget.

        From one that would, on to a cheaper one; from one that would not, back to a milder one: a bisection. In the
        end a milder one than what it led to is raced too: it is what remains where a long training falls short.
        """
        raced: dict[int, Racer] = {}
        cheapest, mildest = 0, len(racers) - 1
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

    def _challenged(self, raced: list[Racer], rival: Trainer, lap_s: float) -> Steps[list[Racer]]:
        """Those raced, with the better of their training and another one, raced where theirs would be a long one."""
        chosen = self._choose(raced, CURVE_RATE)
        if chosen is None or chosen.epoch_s > lap_s:
            self.scene.not_tried.setdefault(str(rival.technique), NO_TIME if chosen else NOT_WORTH_IT)
            return raced
        done = yield from self._lap(replace(chosen, trainer=rival), min(chosen.epochs, rival.most_epochs(0)))
        if done is None:
            return raced
        before, after = (racer.after(self._affordable(1.0, racer), CURVE_RATE) for racer in (chosen, done))
        if after >= min(before, CLEARLY_LESS * before):
            self._tell_beaten(done, chosen)
            return raced
        self._tell_beaten(chosen, done)
        slower = done.epoch_s / chosen.epoch_s
        others = [replace(racer, trainer=rival, epoch_s=racer.epoch_s * slower) for racer in raced if racer != chosen]
        return [done, *others]

    def _recast(self, raced: list[Racer], lap_s: float) -> Steps[list[Racer]]:
        """Those raced, the chosen one made in whichever way leaves it the least drop at the same sizes."""
        chosen = self._choose(raced, CURVE_RATE)
        if chosen is None:
            return raced
        if chosen.epoch_s * chosen.epochs > lap_s:
            tell_no_rivals(self.scene, replace(chosen, epochs=RACE_EPOCHS))
            return raced
        best = chosen
        for rival in rivals(self.scene, chosen):
            done = yield from self._lap(rival, chosen.epochs - rival.kept_epochs)
            for technique in (*rival.start, rival.trainer.technique) if done else ():
                self.scene.not_tried.pop(technique.name, None)
            best = min((best, done), key=lambda racer: racer.drop) if done else best
        return [best if racer is chosen else racer for racer in raced]

    def _tell_beaten(self, loser: Racer, winner: Racer) -> None:
        """Say of a training whose epochs were asked for that it did not get them."""
        if loser.trainer.asked_epochs is not None and loser.trainer.asked_epochs > loser.epochs:
            reason = f"raced for {loser.epochs} epochs, {winner.trainer.technique} promised about as much or more."
            self.scene.not_tried.setdefault(str(loser.trainer.technique), reason)

    def _raced(self, racer: Racer, time_s: float) -> Steps[Racer | None]:
        """A short training of at most so many seconds; None where that failed."""
        done = yield from self._lap(racer, 1)
        epochs = min(RACE_EPOCHS, racer.most_epochs, int(time_s / done.epoch_s)) if done else 0
        if epochs > 1:
            # What an epoch takes is known now; a curve that starts at the first epoch would be too steep.
            done = yield from self._lap(racer, epochs)
        return done

    def _lap(self, racer: Racer, epochs: int) -> Steps[Racer | None]:
        """Train one for so many epochs; None where that failed, TrainDataError where that was the data's fault."""
        for trial in (yield [racer.trainer.tails[0].behind((*racer.start, racer.training(epochs)))]):
            if trial.train_at_fault:
                raise TrainDataError(trial.reason)
            if trial.outcome == "measured" and trial.drop is not None:
                epoch_s = max(MINIMUM_EPOCH_S, self._training_s(trial, len(racer.start)) / epochs)
                deviation, total = trial.drop_deviation or 0.0, racer.kept_epochs + epochs
                cost, too_large = self.scene.ranking.cost(trial), self.scene.ranking.too_large(trial)
                known = replace(racer, cost=cost, drop=trial.drop, deviation=deviation, too_large=too_large)
                return replace(known, epochs=total, epoch_s=epoch_s)
        return None

    def _training_s(self, trial: Trial, at: int) -> float:
        """What the training took that stands there in the recipe: a killed run has kept it, and the trial was short."""
        told = trial.coverage[at].get("apply_s") if at < len(trial.coverage) else None
        return trial.wall_time_s - self._untrained_s() if told is None else float(told)

    def _untrained_s(self) -> float:
        """What a trial takes beside its training: as long as structures took that were not trained, or the tails."""
        trained, tails = {trial.key for trial in self._trained()}, {tail.key for tail in self.tails}
        walls = [t.wall_time_s for t in self.trials if t.stage == "training" and t.key not in trained]
        walls = walls or [t.wall_time_s for t in self.trials if t.key in tails]
        return median(walls) if walls else 0.0

    def _trained(self) -> list[Trial]:
        """Trials of recipes with a training."""
        names = {kind_of(technique).__name__ for technique in self.scene.techniques if is_training(technique)}
        return [t for t in self.trials if any(step["technique"] in names for step in t.recipe)]

    def _train_for_long(self, raced: list[Racer]) -> Rounds:
        """Train the most promising, choose again by what that taught, train another one, and so on."""
        rate = CURVE_RATE
        for done in count():
            settling = done < LONG_TRAININGS
            pool = raced if settling else [racer for racer in raced if self._promising(racer, rate)]
            chosen = self._choose(pool, rate, SURE if settling else EVEN)
            if chosen is None:
                return
            raced.remove(chosen)
            trained = yield from self._train(chosen, 1.0 if done else FIRST_LONG_SHARE)
            if trained is not None:
                raced.append(trained)
                # One run's rate is as uncertain as the supposed one.
                rate = (rate + (learnt_rate(chosen, trained) or rate)) / 2

    def _choose(self, raced: Sequence[Racer], rate: float, enough: float = SURE) -> Racer | None:
        """The cheapest whose drop will probably be certified if it gets all the time left; else the mildest.

        Only what may be cheaper than the best without training, and than one with it whose chance is `enough`; or as
        cheap as that, where its epochs were asked for and it has not had them.
        """
        ranking = self.scene.ranking
        best = ranking.best(self.trials)
        sure = ranking.best(t for t in self._trained() if ranking.chance(t) >= enough)
        limit = min(
            LUCK * ranking.cost(best) if best else float("inf"),
            ranking.cost(sure) if sure else float("inf"),
        )
        owed = LUCK * ranking.cost(sure) if sure else 0.0
        pool = [
            r
            for r in small_enough(raced)
            if (r.cost < limit or (r.is_owed and r.cost <= owed)) and self._affordable(1.0, r) >= r.fewest_epochs
        ]
        promising = [r for r in pool if self._promising(r, rate)]
        if promising:
            return min(promising, key=lambda r: r.cost)
        return max(pool, key=lambda r: r.cost, default=None)

    def _promising(self, racer: Racer, rate: float) -> bool:
        """Whether all the time that is left would probably bring a certificate within the budget."""
        ranking = self.scene.ranking
        drop = racer.after(self._affordable(1.0, racer), rate)
        return ranking.bound_at(drop, racer.deviation_at(drop, ranking.score_span)) <= self.scene.budget.max_drop

    def _affordable(self, share: float, racer: Racer) -> int:
        """Epochs in a share of the time that is left, with room for what follows a training; as many as it may have."""
        time_s = self.scene.time_left_s() - self._untrained_s() * (1 + len(racer.trainer.tails))
        return min(racer.most_epochs, int(share * time_s / max(MINIMUM_EPOCH_S, racer.epoch_s)))

    def _train(self, racer: Racer, share: float) -> Steps[Racer | None]:
        """A long training in a share of the time, then every other leading tail behind it; None where it failed.

        Epochs that were asked for may take all the time.
        """
        share = share if racer.trainer.asked_epochs is None else 1.0
        epochs = max(racer.fewest_epochs, self._affordable(share, racer))
        recipe = (*racer.start, racer.training(epochs))
        trained = yield from self._lap(racer, epochs)
        if trained is None:
            return None
        others = [tail.behind(recipe) for tail in racer.trainer.tails[1:]]
        if others:
            yield others
        if not racer.trainer.technique.goes_on:
            return trained
        return replace(trained, start=recipe, kept_epochs=trained.epochs)
