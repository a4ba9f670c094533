"""Branches: how a network uses what its modules take and give, found by watching the operators of one forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from paring.data.batches import model_call
from paring.graph.macs import weighted_layers
from paring.types import Inputs

KEEP_ZERO = frozenset({"mul", "neg", "clone", "detach", "alias", "_to_copy"})
"""Operators of which a zero, also one without dimensions, comes out as a zero."""


def first_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a call, by position or by name; None where there is none."""
    return args[0] if args else next(iter(kwargs.values()), None)


@dataclass
class Use:
    """One call of a module: the number of the tensor that it was given, and what became of the one that it gave.

    `begin` and `end` count operators. `added` says that its output was added to something that its input came from,
    `read` that it was also used in another way.
    """

    module: str
    given: int
    begin: int
    end: int = 0
    added: bool = False
    read: bool = False


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers every tensor, and keeps which others it came from (the bits of `origins`) and which operators read it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []  # An id is that of one tensor only as long as the tensor lives.
        self.origins: list[int] = []
        self.readers: dict[int, list[int]] = defaultdict(list)
        self.uses: list[Use] = []
        self.pending: dict[int, list[Use]] = defaultdict(list)
        self.operators = 0

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; one that no operator made comes from nothing."""
        return self.numbers[id(tensor)] if id(tensor) in self.numbers else self._add(tensor, 0)

    def _add(self, tensor: Tensor, origins: int) -> int:
        number = len(self.origins)
        self.numbers[id(tensor)] = number
        self.alive.append(tensor)
        self.origins.append(origins | 1 << number)
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator."""
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        numbers = [self.number(tensor) for tensor in inputs]
        operator = func._schema.name.removeprefix("aten::")
        shapes = {tuple(tensor.shape) for tensor in inputs}
        result = func(*args, **(kwargs or {}))
        origins = 0
        carried: list[Use] = []
        for at, number in enumerate(numbers):
            origins |= self.origins[number]
            self.readers[number].append(self.operators)
            for use in self.pending[number]:
                others = numbers[:at] + numbers[at + 1 :]
                if operator in KEEP_ZERO or (operator == "div" and at == 0):
                    carried.append(use)
                elif len(shapes) == 1 and (operator == "add" or (operator == "add_" and at == 1)):
                    self._meet(use, others)
                else:
                    use.read = True
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.pending[self._add(tensor, origins)] += carried
        self.operators += 1
        return result

    def _meet(self, use: Use, others: list[int]) -> None:
        """What a module gave is added to another tensor."""
        own_input = len(others) == 1 and bool(self.origins[use.given] >> others[0] & 1)
        use.added |= own_input
        use.read |= not own_input


@dataclass(frozen=True, eq=False)
class Uses:
    """All calls of the modules with weights, and which operators read which tensor."""

    calls: Sequence[Use]
    readers: dict[int, list[int]]
    _by_name: dict[str, list[Use]] = field(init=False, default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for call in self.calls:
            self._by_name[call.module].append(call)

    def branches(self) -> list[str]:
        """Modules whose output is, at every call, added to what their input came from, and used for nothing else."""
        return [name for name, uses in self._by_name.items() if all(use.added and not use.read for use in uses)]

    def in_line(self, module: str) -> bool:
        """Whether at every call nothing else in the network reads what the module is given."""
        return all(
            use.begin <= reader < use.end for use in self._by_name[module] for reader in self.readers.get(use.given, ())
        )


def uses_of(model: nn.Module, inputs: Inputs) -> Uses:
    """How the network uses its modules. Runs one forward."""
    watch = _Watch()
    entered: list[Use | None] = []

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = first_of(args, kwargs)
            entered.append(Use(name, watch.number(given), watch.operators) if isinstance(given, Tensor) else None)

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        use = entered.pop()
        if use is not None:
            use.end = watch.operators
            use.read = not isinstance(output, Tensor)
            watch.uses.append(use)
            if isinstance(output, Tensor):
                watch.pending[watch.number(output)].append(use)

    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if name and weighted_layers(module):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.no_grad(), watch:
            answers = model_call(model, inputs)
            # What the network returns is read by whoever called it.
            for tensor in tree_leaves(answers):
                for use in watch.pending[watch.number(tensor)] if isinstance(tensor, Tensor) else ():
                    use.read = True
    finally:
        for handle in handles:
            handle.remove()
    return Uses(watch.uses, dict(watch.readers))
