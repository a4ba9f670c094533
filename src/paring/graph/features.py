"""What modules inside a network give while it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from paring.errors import TechniqueError
from paring.ops.features import Part


@dataclass(frozen=True, eq=False)
class Feature:
    """The first floating-point tensor that a module gave at one call."""

    module: str
    values: Tensor


@contextmanager
def features_of(model: nn.Module, modules: Sequence[str]) -> Iterator[list[Feature]]:
    """Within, what these modules of a network give is noted, call by call, in float32."""
    noted: list[Feature] = []

    def note_of(name: str) -> Any:
        def note(module: nn.Module, given: Any, output: Any) -> None:
            values = next((each for each in tree_leaves(output) if _is_floating(each)), None)
            if values is None:
                raise TechniqueError(f"features names {name!r}, which gives no floating-point tensor: leave it out.")
            noted.append(Feature(name, values.float()))

        return note

    with ExitStack() as hooks:
        for name in modules:
            hooks.callback(model.get_submodule(name).register_forward_hook(note_of(name)).remove)
        yield noted


def paired(student: Sequence[Feature], teacher: Sequence[Feature], part: Part) -> list[tuple[Tensor, Tensor]]:
    """What both gave, call by call. Raises TechniqueError where modules are called otherwise, or that part differs."""
    if [each.module for each in student] != [each.module for each in teacher]:
        raise TechniqueError("the modules that features names are not called as often, or as early, as the original's.")
    for ours, theirs in zip(student, teacher, strict=True):
        if part(ours.values) is None:
            raise TechniqueError(f"features names {ours.module!r}, which gives no maps, but rows: leave it out.")
        if part(ours.values) != part(theirs.values):
            shapes = f"{tuple(ours.values.shape)}, and {tuple(theirs.values.shape)} in the original"
            other = "leave it out, or compare by feature_distance='similarities'"
            raise TechniqueError(f"features names {ours.module!r}, which gives {shapes}: {other}.")
    return [(ours.values, theirs.values) for ours, theirs in zip(student, teacher, strict=True)]


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
