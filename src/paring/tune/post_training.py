"""The first stages: the original on every backend, then what needs no training, from the cheap to the thorough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from paring.techniques.base import GraphTechnique, ModuleTechnique, Recipe, Technique, TrainingTechnique, described
from paring.tune.candidate import Candidate, Stage
from paring.tune.hopeless import judged
from paring.tune.proposing import offered
from paring.tune.scene import Round, Rounds, Scene
from paring.tune.trial import Trial

FIRST_VARIANTS = 2
ARMS_REFINED = 2
WORTH_A_TAIL = 2.0
"""A backend that costs so many times as much as the best one is not tried on trained networks."""

WORTH_AN_OPTION = 1.1
"""Nor are options of the best one's backend that cost so many times as much; quick figures are that uncertain."""


def first_baselines(scene: Scene) -> Rounds:
    """The original on each backend with its default options."""
    yield [Candidate((), backend, "baseline") for backend in scene.first_backends()]


def other_baselines(scene: Scene, trials: Sequence[Trial] = ()) -> Rounds:
    """The original with every other option of each backend: the fastest of all is what a result has to beat."""
    others = [scene.backend_variants(backend)[1:] for backend in scene.backends]
    yield [judged(Candidate((), backend, "baseline"), trials) for variants in others for backend in variants]


def asked_recipes(scene: Scene) -> Rounds:
    """Whole recipes that were asked for, on every backend that reads what they make."""
    for recipe in scene.recipes:
        if described(recipe) in scene.not_tried:
            continue
        trains = any(isinstance(technique, TrainingTechnique) for technique in recipe)
        reads_graphs = any(isinstance(technique, GraphTechnique) for technique in recipe)
        backends = scene.graph_backends() if reads_graphs else scene.first_backends()
        stage: Stage = "training" if trains else "post-training"
        yield [Candidate(recipe, backend, stage) for backend in backends if scene.runnable(recipe, backend)]


def first_techniques(scene: Scene) -> Rounds:
    """The most promising settings of each technique on each backend that reads graphs.

    A module technique that was passed as an object is tried alone too, on every backend.
    """
    yield [
        Candidate((variant,), backend, "post-training")
        for technique in scene.techniques
        for backend in scene.graph_backends()
        for variant in scene.graph_variants(technique, backend, FIRST_VARIANTS)
        if variant.role == "alone" or variant is technique
    ]
    yield [
        Candidate((technique,), backend, "post-training")
        for technique in scene.techniques
        if isinstance(technique, ModuleTechnique) and not isinstance(technique, TrainingTechnique)
        if scene.model is not None
        for backend in scene.first_backends()
    ]


class Refinement:
    """Goes on from the trials so far: the best arms get more settings, more options, preparation, gentler forms."""

    def __init__(self, scene: Scene, candidates: dict[str, Candidate], trials: list[Trial]) -> None:
        self.scene = scene
        self.candidates = candidates
        self.trials = trials

    def rounds(self) -> Rounds:
        """Settings, then preparation, then gentler forms of what loses too much, then options of the backend."""
        for propose in (self._settings, self._preparation, self._gentler, self._options):
            yield propose()

    def _leaders(self, *, most: int, lossy: bool) -> list[Candidate]:
        """The cheapest graph recipes, one for each pair of technique and backend; `lossy` admits those over budget."""
        ranking = self.scene.ranking
        pool = [t for t in self.trials if t.speedup is not None and t.recipe and t.key in self.candidates]
        pool = [t for t in pool if not self.candidates[t.key].module_part]
        pool = [t for t in pool if lossy or ranking.feasible(t)] or pool
        arms: dict[tuple[str, str], Candidate] = {}
        for trial in sorted(pool, key=ranking.cost):
            candidate = self.candidates[trial.key]
            arms.setdefault((candidate.recipe[-1].name, candidate.backend.name), candidate)
        return list(arms.values())[:most]

    def _settings(self) -> Round:
        """The other settings of the leading techniques, on the backend where they lead."""
        found: list[Candidate] = []
        for leader in self._leaders(most=ARMS_REFINED, lossy=True):
            kind = next((t for t in self.scene.techniques if t is type(leader.recipe[-1])), None)
            variants = self.scene.graph_variants(kind, leader.backend)
            found += [Candidate((variant,), leader.backend, "post-training") for variant in variants]
        return found

    def _preparation(self) -> Round:
        """Techniques that only make another one lose less, in front of the leaders."""
        return [
            Candidate((first, *leader.recipe), leader.backend, "post-training")
            for leader in self._leaders(most=ARMS_REFINED, lossy=True)
            for technique in self.scene.techniques
            for first in self.scene.graph_variants(technique, leader.backend)
            if first.role == "before"
        ]

    def _gentler(self) -> Round:
        """Where a leading recipe loses too much, forms of it that lose less."""
        over = {t.key for t in self.trials if not self.scene.ranking.feasible(t)}
        return [
            Candidate((*leader.recipe[:-1], gentle), leader.backend, "post-training")
            for leader in self._leaders(most=ARMS_REFINED, lossy=True)
            if leader.key in over
            for gentle in self._around(leader.recipe[-1])
        ]

    def _around(self, technique: Technique) -> Iterator[GraphTechnique]:
        """Techniques of the role "around", with this one inside."""
        if not isinstance(technique, GraphTechnique):
            return
        for kind in self.scene.techniques:
            if isinstance(kind, type) and issubclass(kind, GraphTechnique):
                around = partial(kind.around, technique, self.scene.graph)
                yield from offered(kind.__name__, around, self.scene.not_tried)

    def _options(self) -> Round:
        """Every option of the backend for the leading recipes, but for those that the original was slow with."""
        found: list[Candidate] = []
        for leader in self._leaders(most=ARMS_REFINED, lossy=False):
            kind = next((b for b in self.scene.backends if b is type(leader.backend)), leader.backend)
            options = [Candidate(leader.recipe, b, "post-training") for b in self.scene.backend_variants(kind)]
            found += [judged(candidate, self.trials) for candidate in options]
        return found


def leading_tails(
    scene: Scene,
    candidates: Mapping[str, Candidate],
    trials: Sequence[Trial],
    prepared: tuple[type[GraphTechnique], ...] = (),
) -> list[Candidate]:
    """The graph recipes and backends that end a trained recipe, the cheapest first and one for each backend.

    Where some are `prepared` for by the training, only such a technique alone, or, if none was tried, nothing.

    Feasible ones, where there are any, else such as keep the accuracy: a smaller network in front of them may hold the
    other limits. None that costs so much more than the first that training would not turn it.
    Where the objective is bytes, those that a quick figure shows slower than the original come behind: as long as
    nothing makes the network faster, they could not take its place.
    Then come the options of the first one's backend that were about as fast: on a smaller network the order among them
    may be another one.
    """
    ranking = scene.ranking
    pool = [t for t in trials if t.key in candidates and t.speedup is not None]
    originals = [t for t in pool if not t.recipe]
    if prepared:
        pool = [t for t in pool if _is_alone(candidates[t.key].recipe, prepared)] or originals
    pool = list(filter(ranking.feasible, pool)) or list(filter(ranking.keeps_accuracy, pool)) or pool
    slow = {t.key: ranking.seems_too_slow(t, originals) for t in pool}
    pool = [t for t in pool if not candidates[t.key].module_part]
    pool = sorted(pool, key=lambda t: (slow[t.key], ranking.cost(t)))
    tails: dict[tuple[str, bool], Candidate] = {}
    for trial in pool:
        if ranking.cost(trial) <= WORTH_A_TAIL * ranking.cost(pool[0]):
            tails.setdefault((trial.backend["name"], slow[trial.key]), candidates[trial.key])
    close = [candidates[t.key] for t in pool[1:] if ranking.cost(t) <= WORTH_AN_OPTION * ranking.cost(pool[0])]
    first = candidates[pool[0].key] if pool else None
    return [*tails.values(), *(c for c in close if first and _same_but_options(c, first))]


def _is_alone(recipe: Recipe, kinds: tuple[type[GraphTechnique], ...]) -> bool:
    """Whether a recipe is one technique of these kinds."""
    return len(recipe) == 1 and isinstance(recipe[0], kinds)


def _same_but_options(one: Candidate, other: Candidate) -> bool:
    """Whether two differ in nothing but the options of one backend."""
    return one.recipe == other.recipe and one.backend.name == other.backend.name
