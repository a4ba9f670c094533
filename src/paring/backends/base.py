"""What a backend is: a runtime that executes a network, with all of its options, as a frozen dataclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from paring.backends.precision import ExecutionPrecision
from paring.errors import BackendError
from paring.types import Budget, Session

NetworkFormat = Literal["onnx", "torch"]
Execution = Literal["float", "integers", "8-bit floats", "16 bits", "packed"]
"""What a layer's kernel computes in; "packed": in floats, with weights that it unpacks as it goes."""

NETWORK_FILES: dict[NetworkFormat, str] = {"onnx": "network.onnx", "torch": "network.pt2"}


class Backend(ABC):
    """A runtime and its options. A subclass is a frozen dataclass; every field is an option that the search may vary.

    `name` is what people call it; `format` is the kind of file that it reads; `package` the distribution whose version
    tells the runtime's (None: unknown).
    """

    name: ClassVar[str]
    format: ClassVar[NetworkFormat]
    package: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def available(cls) -> str | None:
        """None where the runtime works on this machine, else the reason why not, in a sentence.

        It may import the runtime: it is only called in a process of its own (see `probe`).
        """

    @classmethod
    def precisions(cls) -> tuple[ExecutionPrecision, ...]:
        """The precisions in which it executes graphs that ask for them here; called where `available` is."""
        return ("f32",)

    @abstractmethod
    def load(self, network: Path, *, threads: int, device: str = "cpu") -> Session:
        """Load the network file (`network.onnx` or `network.pt2`). Raises BackendError where the runtime refuses it."""

    def executed(self, network: Path) -> tuple[Execution, ...]:
        """In what each layer with weights is computed, as the runtime itself tells; none where it does not tell."""
        return ()

    def refusal(self) -> str | None:
        """Why these options can't work on this machine, in a sentence; None where nothing speaks against them.

        It imports no runtime: it is called where the search runs.
        """
        return None

    @classmethod
    @abstractmethod
    def variants(cls, budget: Budget, threads: int) -> Iterator[Self]:
        """The options that are worth a try for this objective, the plain default first."""

    @classmethod
    def required_options(cls) -> tuple[str, ...]:
        """Names of the options that have no default."""
        fields: dict[str, Field[Any]] = cls.__dataclass_fields__  # type: ignore[attr-defined]
        return tuple(n for n, f in fields.items() if f.default is MISSING and f.default_factory is MISSING)

    @classmethod
    def with_options(cls, options: dict[str, Any]) -> Self:
        """The inverse of `options`. Raises BackendError for one that this backend does not have, or needs."""
        known = cls.__dataclass_fields__  # type: ignore[attr-defined]
        for name in options:
            if name not in known:
                raise BackendError(
                    f"the backend {cls.name} has no option {name!r}: it has {', '.join(known) or 'none'}."
                )
        for name in cls.required_options():
            if name not in options:
                raise BackendError(f"the backend {cls.name} needs the option {name!r}: pass an object that has it.")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})

    def options(self) -> dict[str, Any]:
        """All options, as plain values that JSON can hold."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def __str__(self) -> str:
        """The name with the options that differ from the defaults."""
        defaults = {name: field.default for name, field in type(self).__dataclass_fields__.items()}  # type: ignore[attr-defined]
        told = [f"{name}={value}" for name, value in self.options().items() if value != defaults.get(name)]
        return f"{self.name}({', '.join(told)})" if told else self.name


def called(backend: Backend | type[Backend]) -> str:
    """What was asked for, in words: an object by its name with its options, a class by its name alone."""
    return backend.name if isinstance(backend, type) else str(backend)
