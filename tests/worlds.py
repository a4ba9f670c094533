"""A made-up machine on which everything is known, for the search: what it asks for, in which order, where it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import onnx
import torch
from torch import nn

from paring.backends.base import Backend, NetworkFormat
from paring.backends.precision import ExecutionPrecision
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.techniques.base import (
    GraphTechnique,
    ModuleTechnique,
    Part,
    Recipe,
    Role,
    Technique,
    TrainingTechnique,
)
from paring.tune import Candidate, Ranking, Scene, Search, Speedup, Trial
from paring.types import Budget, Coverage, Objective, Session, Task
from tests.refusing import Unapplied

GAINS = {"a": 0.02, "b": 0.10, "c": 0.20, "d": -0.01, "e": 0.10}
HARMS = {"a": 0.01, "b": 0.40, "c": 0.10, "d": 0.0, "e": 0.02}
"""What parts save and lose. By harm for gain, 0.05 of which is doubt: e, a, c, b; d gains nothing."""


@dataclass(frozen=True)
class Fast(Backend):
    lanes: int = 1
    name: ClassVar[str] = "fast"
    format: ClassVar[NetworkFormat] = "onnx"

    @classmethod
    def available(cls) -> str | None:
        return None

    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        raise NotImplementedError

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield cls()
        yield cls(lanes=2)


@dataclass(frozen=True)
class Slow(Fast):
    name: ClassVar[str] = "slow"
    format: ClassVar[NetworkFormat] = "torch"


@dataclass(frozen=True)
class Crawling(Fast):
    name: ClassVar[str] = "crawling"


@dataclass(frozen=True)
class Uneven(Fast):
    """Fast, but for its last option."""

    name: ClassVar[str] = "uneven"

    @classmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        yield from super().variants(budget, threads)
        yield cls(lanes=7)


@dataclass(frozen=True)
class Int(Unapplied):
    bits: int = 8

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        for bits in (8, 6, 4):
            yield cls(bits)


@dataclass(frozen=True)
class Gentle(Int):
    role: ClassVar[Role] = "around"

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls(9)

    @classmethod
    def around(cls, technique: GraphTechnique, graph: onnx.ModelProto) -> Iterator[Self]:
        if type(technique) is Int:
            yield cls(technique.bits + 1)


@dataclass(frozen=True)
class Smooth(Int):
    role: ClassVar[Role] = "before"

    @classmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Half(Int):
    @property
    def execution(self) -> ExecutionPrecision:
        return "f32" if self.bits == 6 else "bf16"


@dataclass(frozen=True)
class Sharp(Unapplied):
    """Four times as fast, and as accurate."""


@dataclass(frozen=True)
class Narrow(ModuleTechnique):
    ratio: float = 0.5

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        raise NotImplementedError

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        raise NotImplementedError

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        for ratio in (0.25, 0.5, 0.75):
            yield cls(ratio)


@dataclass(frozen=True)
class Thin(Narrow):
    """A little or a lot."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls(0.25)
        yield cls(0.75)


@dataclass(frozen=True)
class Careful(Narrow):
    """Comes to the same sizes in two more ways, of which the second does less harm."""

    harm: float = 1.0

    def as_small(self) -> Iterator[Self]:
        yield replace(self, harm=1.5)
        yield replace(self, harm=0.5)


@dataclass(frozen=True)
class Without(Narrow):
    """Takes parts of a network out, each of which costs and matters something of its own."""

    names: tuple[str, ...] = ()

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls(names=("b",))

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        for name in GAINS:
            yield Part(replace(self, names=(name,)), name, 1.0)

    def joined(self, other: Self) -> Self:
        return replace(self, names=tuple(sorted({*self.names, *other.names})))


@dataclass(frozen=True)
class Teach(TrainingTechnique, Narrow):
    """Leaves 1 / (1 + skill * epochs) of the drop that can be mended."""

    epochs: int = 1
    skill: float = 1.0

    def with_epochs(self, epochs: int) -> Self:
        assert epochs >= 1, "FineTune refuses this"
        return super().with_epochs(epochs)

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls()


@dataclass(frozen=True)
class Aware(Teach):
    """Lets `Int` behind it do 1 / (1 + epochs) of its harm."""

    prepares: ClassVar[tuple[type[GraphTechnique], ...]] = (Int,)
    goes_on: ClassVar[bool] = False


@dataclass(frozen=True)
class Coach(Teach):
    """Has a better second setting."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        yield cls()
        yield cls(skill=5.0)


@dataclass(frozen=True)
class Helping(Teach):
    """Proposes nothing alone."""

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        raise TechniqueError("alone it is nothing.")


@dataclass(frozen=True)
class Rounds(Helping):
    """Takes the place of `Careful` and the training behind it."""

    inside: Narrow = Narrow()

    def settings(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "skill": self.skill, "inside": str(self.inside)}

    @classmethod
    def around(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        if type(technique) is Careful:
            yield cls(inside=technique, skill=4.0)


@dataclass(frozen=True)
class Press(Helping):
    """Stands before `Careful`, which does a sixth of the harm then."""

    @classmethod
    def before(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        if type(technique) is Careful:
            yield cls()


@dataclass(frozen=True)
class Clumsy(Teach):
    """Fails each time."""


@dataclass(frozen=True)
class Spoilt(Teach):
    """Comes upon rows of `train` that no training can use."""


@dataclass(frozen=True)
class Wane(Teach):
    """Makes the network smaller as it trains it."""

    shrinks: ClassVar[bool] = True
    improves: ClassVar[tuple[Objective, ...]] = ("latency",)


@dataclass(frozen=True)
class Hollow(Narrow):
    """Gains bytes alone; what is left of the time is luck, and the mildest has most of it."""

    improves: ClassVar[tuple[Objective, ...]] = ("size",)


@dataclass(frozen=True)
class Fade(Teach):
    """The same, as it trains."""

    shrinks: ClassVar[bool] = True
    improves: ClassVar[tuple[Objective, ...]] = ("size",)

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        for ratio in (0.25, 0.5, 0.75):
            yield cls(ratio=ratio)


@dataclass
class World:
    """A machine on which everything is known: speeds multiply, training takes the drop away."""

    scene: Scene
    clock_s: float
    asked: list[Candidate]
    luck: float = 1.0
    """By so much the quick figures without training are too good."""
    floor: float = 0.0
    """This share of what a structure loses no training brings back."""
    trained: list[Recipe] = field(default_factory=list)
    """Beginnings of recipes that were made once: they are there for every backend, and to go on from."""

    def measure(self, candidate: Candidate, number: int) -> Trial:
        ratio, size, drop, for_good, spent_s = 1.0, 1000.0, 0.0, 0.0, 1.0
        if candidate.backend.name == "slow":
            ratio *= 0.3
        if candidate.backend.name == "crawling":
            ratio *= 0.1
        if isinstance(candidate.backend, Fast) and candidate.backend.lanes == 7:
            ratio *= 0.2
        if isinstance(candidate.backend, Fast) and candidate.backend.lanes == 2:
            ratio *= 1.1
        for at, technique in enumerate(candidate.recipe, 1):
            part = candidate.recipe[:at]
            match technique:
                case Wane(epochs=epochs) if Wane not in map(type, candidate.recipe[: at - 1]):
                    ratio, drop = ratio * 1.8, drop + 0.05 / (1 + epochs)
                    spent_s += 0.0 if part in self.trained else 4.0 * epochs
                    self.trained.append(part)
                case Fade(epochs=epochs, ratio=share) if Fade not in map(type, candidate.recipe[: at - 1]):
                    ratio, size, drop = ratio * (1.02 - share / 50), size * (1 - share), drop + share / 5 / (1 + epochs)
                    spent_s += 0.0 if part in self.trained else 4.0 * epochs
                    self.trained.append(part)
                case Hollow(ratio=share):
                    ratio, size, drop = ratio * (1.02 - share / 50), size * (1 - share), drop + share / 5
                case Rounds(epochs=epochs, skill=skill, inside=Narrow(ratio=share)):
                    ratio, drop = ratio / (1 - share / 2), (drop + share / 5) / (1 + skill * epochs)
                    spent_s += 0.0 if part in self.trained else 4.0 * epochs
                    self.trained.append(part)
                case Teach(epochs=epochs, skill=skill):
                    drop = for_good + (drop - for_good) / (1 + skill * epochs)
                    spent_s += 0.0 if part in self.trained else 4.0 * epochs
                    self.trained.append(part)
                case Without(names=names):
                    ratio /= 1 - sum(GAINS[name] for name in names)
                    drop += sum(HARMS[name] for name in names)
                    for_good = self.floor * drop
                case Narrow(ratio=share):
                    harm = technique.harm if isinstance(technique, Careful) else 1.0
                    harm /= 6 if any(isinstance(each, Press) for each in candidate.recipe[: at - 1]) else 1
                    ratio, drop = ratio / (1 - share / 2), drop + harm * share / 5
                    for_good = self.floor * drop
                case Sharp():
                    ratio *= 4
                case Int(bits=bits) if technique.role != "before":
                    aware = sum(each.epochs for each in candidate.recipe if isinstance(each, Aware))
                    harm = {8: 0.001, 7: 0.002, 6: 0.02, 5: 0.03, 4: 0.3}[bits] / (1 + aware)
                    ratio, drop = ratio * 16 / bits, drop + harm
        self.clock_s -= spent_s
        ratio *= self.luck if candidate.stage == "post-training" else 1.0
        if any(isinstance(technique, Clumsy) for technique in candidate.recipe):
            return Trial.of(candidate, number, "failed", "Clumsy failed")
        if any(isinstance(technique, Spoilt) for technique in candidate.recipe):
            return replace(Trial.of(candidate, number, "failed", "train is spoilt."), train_at_fault=True)
        trial = Trial.of(candidate, number, "measured")
        return replace(
            trial,
            speedup=Speedup(ratio, ratio * 0.98, ratio * 1.02),
            latency_ms={"p50": 1 / ratio, "p90": 1 / ratio, "p99": 1 / ratio},
            drop=drop,
            drop_deviation=0.05,
            rows=1000,
            size_bytes=round(size),
            wall_time_s=spent_s,
        )


def world(
    *,
    techniques: tuple[Technique | type[Technique], ...] = (Int, Smooth, Gentle, Narrow, Teach),
    train: bool = True,
    time_s: float = 1000.0,
    budget: Budget | None = None,
    backends: tuple[type[Backend], ...] = (),
    precisions: dict[str, tuple[str, ...]] | None = None,
    recipes: tuple[Recipe, ...] = (),
) -> World:
    budget = budget or Budget()
    model = nn.Linear(2, 2).eval()
    data = [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))]
    task = Task(model, evaluate=data, train=data if train else None)
    ranking = Ranking(budget, certification_rows=7000, finalist_confidence=0.98)
    made: list[World] = []
    scene = Scene(
        budget=budget,
        ranking=ranking,
        job=Job(task, ()),
        model=model,
        graph=onnx.ModelProto(),
        techniques=techniques,
        backends=backends or (Fast, Slow),
        threads=2,
        time_left_s=lambda: made[0].clock_s,
        precisions=precisions or {},
        recipes=recipes,
    )
    made.append(World(scene, time_s, []))
    return made[0]


def explore(there: World) -> Search:
    search = Search(there.scene)
    while asked := search.ask():
        there.asked += asked
        assert len(there.asked) < 500, "the search does not end"
        search.tell(asked, [there.measure(c, len(search.trials) + i) for i, c in enumerate(asked)])
    return search
