"""What a technique is: one transformation and all of its settings, as a frozen dataclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from paring.backends.precision import ExecutionPrecision
from paring.data.job import Job
from paring.errors import TaskError, TechniqueError
from paring.fingerprint import fingerprint
from paring.registry import typed_name
from paring.types import OBJECTIVES, Batch, Coverage, Objective, Task

if TYPE_CHECKING:
    import onnx
    from torch import nn


Role = Literal["alone", "before", "around"]


class Technique:
    """Common to both kinds. A subclass is a frozen dataclass that checks its settings in `__post_init__`.

    `improves` holds the objectives that it can serve on the runtimes there are: the search proposes settings of its own
    where the budget has one of these as its objective, or a limit of it. An object is tried whatever the budget.
    """

    improves: ClassVar[tuple[Objective, ...]] = OBJECTIVES

    @property
    def name(self) -> str:
        """The class's own name."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """All settings, as plain values that JSON can hold; a technique among them with its name and its own.

        A function is told by its name and a digest of what it does.
        """
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        return {**values, **self._digests}

    @cached_property
    def _digests(self) -> dict[str, str]:
        # Two functions may share a name, as lambdas do, and a partial has none; one that keeps a state stays the same.
        return {name: fingerprint(value) for name, value in vars(self).items() if _is_function(value)}

    @property
    def _inner(self) -> dict[str, Technique]:
        """The techniques among the settings."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Technique)}

    @property
    def _functions(self) -> dict[str, str]:
        """The functions among the settings that have a name to be typed by."""
        functions = {name: value for name, value in vars(self).items() if isinstance(value, FunctionType)}
        return {name: typed for name, value in functions.items() if (typed := typed_name(value))}

    def __str__(self) -> str:
        """The name with the settings that differ from the defaults, as people read a recipe, and type it.

        A technique among them is always told, since it says what is done.
        """
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        values = {**self.settings(), **self._inner, **self._functions}
        told = [f"{name}={value}" for name, value in values.items() if value != defaults.get(name)]
        return f"{self.name}({', '.join(told)})" if told else self.name


class ModuleTechnique(Technique, ABC):
    """nn.Module -> nn.Module."""

    @abstractmethod
    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """A new network in eval mode; the input is untouched."""

    @abstractmethod
    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Which layers were changed, which not, and why."""

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError where the settings ask for what the network or the task does not have.

        For the network that came, before any time is spent: what takes long to know is left to `apply`.
        """

    @classmethod
    @abstractmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """The settings that are worth a try on this network, most promising first.

        Raises TechniqueError where there are none: its sentence is told under the technique's name.
        """

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        """The smallest changes that can be joined, where it divides: the search measures each one alone.

        They keep the settings that do not say how much goes where, and take the place of `variants` where there is time
        for that; none where it does not divide.
        """
        return iter(())

    def as_small(self) -> Iterator[Self]:
        """Other settings that come to the same sizes: the search races them where its structure is settled."""
        return iter(())

    def joined(self, other: Self) -> Self:
        """The change of this part and of the other one together. TechniqueError where it does not divide."""
        raise TechniqueError(f"{self.name} does not divide into parts that could be joined.")


Divided = TypeVar("Divided", bound=ModuleTechnique, covariant=True)


@dataclass(frozen=True)
class Part(Generic[Divided]):
    """One small change: what it takes away (`share`, above 0 and at most 1) of a layer, a group of layers or a block.

    Of one `layer` there may be several parts, of which one takes the place of another.
    """

    technique: Divided
    layer: str
    share: float


def divides(technique: type[Technique]) -> bool:
    """Whether a class of techniques has parts."""
    return issubclass(technique, ModuleTechnique) and technique.parts is not ModuleTechnique.parts


class TrainingTechnique(ModuleTechnique):
    """A module technique that takes gradient steps: it needs the task's `train` data, and time.

    One of its fields is `epochs`, the passes over the training data. The search chooses them for the settings that
    `variants` proposes; of an object that was passed it keeps them, as far as the time limit holds them. One that
    `shrinks` makes the network smaller itself; any other is tried with a technique that does. One that `prepares` for
    techniques of graphs stands before one of these alone, which loses less then, or where none of them is tried before
    nothing; it needs no smaller network. `goes_on` tells whether its network can be trained so again.
    """

    shrinks: ClassVar[bool] = False
    prepares: ClassVar[tuple[type[GraphTechnique], ...]] = ()
    goes_on: ClassVar[bool] = True
    epochs: int

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TaskError for a task without training data."""
        self.train_of(task)

    def train_of(self, task: Task) -> Iterable[Batch]:
        """The training data. TaskError where there is none."""
        if task.train is None:
            raise TaskError(f"{self.name} needs training data: give the task `train`; its targets may be None.")
        return task.train

    def with_epochs(self, epochs: int) -> Self:
        """The same training, longer or shorter."""
        return replace(self, epochs=epochs)  # type: ignore[type-var]

    @classmethod
    def around(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        """Itself with a technique inside, to stand in its place and that of the training behind it.

        With settings of that training where it has the same; none where it can't.
        """
        return iter(())

    @classmethod
    def before(cls, technique: ModuleTechnique, training: TrainingTechnique) -> Iterator[Self]:
        """Itself as it prepares the network for a technique that follows, and for the training behind that.

        With settings of that training where it has the same; none where it can't.
        """
        return iter(())

    def continued(self, epochs: int) -> TrainingTechnique:
        """What goes on for so many epochs from the network that this gave: itself, unless that would shrink again."""
        return self.with_epochs(epochs)

    def shrunk(self, model: nn.Module, job: Job) -> nn.Module:
        """A network of the sizes that `apply` comes to, whatever its weights: those that were kept are put into it."""
        return model


class GraphTechnique(Technique, ABC):
    """onnx.ModelProto -> onnx.ModelProto.

    `role` tells the search where it belongs: "alone"; "before" another one, which it makes lose less while it gains
    nothing itself; or "around" another one, which it holds as a setting and applies to a part of the network.
    """

    role: ClassVar[Role] = "alone"

    @property
    def execution(self) -> ExecutionPrecision:
        """The precision in which its graphs ask to be executed; it is only tried on backends that can."""
        return "f32"

    @property
    def forms(self) -> tuple[str, ...]:
        """The rows of `paring doctor --kernels` that its graphs are made of, as `int8`.

        It is not tried on a backend that refuses one of them or answers it wrongly.
        """
        return ()

    def serves(self, graph: onnx.ModelProto) -> tuple[Objective, ...]:
        """What of `improves` it can serve on this graph: all of it, unless that depends on the layers."""
        return self.improves

    @abstractmethod
    def apply(self, graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
        """A new graph; the input is untouched."""

    @abstractmethod
    def coverage(self, before: onnx.ModelProto, after: onnx.ModelProto, job: Job) -> Coverage:
        """Which layers were changed, which not, and why."""

    @classmethod
    @abstractmethod
    def variants(cls, graph: onnx.ModelProto, job: Job) -> Iterator[Self]:
        """The settings that are worth a try on this graph, most promising first.

        Raises TechniqueError where there are none: its sentence is told under the technique's name.
        """

    @classmethod
    def around(cls, technique: GraphTechnique, graph: onnx.ModelProto) -> Iterator[Self]:
        """For the role "around": itself with another technique inside, the nearest to it first; none where it can't."""
        return iter(())


def _plain(value: Any) -> Any:
    """A setting as JSON holds it, unless it is a function."""
    if isinstance(value, Technique):
        return {"technique": value.name, **value.settings()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Technique | type)


Recipe = tuple[Technique, ...]
"""Techniques, applied left to right: those of modules first, then those of graphs."""


def check_order(recipe: Recipe) -> None:
    """Raise TechniqueError where a technique of modules stands behind one of graphs."""
    seen_graph = ""
    for technique in recipe:
        if isinstance(technique, GraphTechnique):
            seen_graph = technique.name
        elif seen_graph:
            raise TechniqueError(
                f"{technique.name} changes the module and stands behind {seen_graph}, which changes the graph: "
                "put techniques of modules first."
            )


def described(recipe: Recipe) -> str:
    """A recipe in one line."""
    return " -> ".join(str(technique) for technique in recipe) or "original"
