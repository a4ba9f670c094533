"""Blocks: the modules that the identity or nothing at all can stand in for, found by watching forwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from paring.data.batches import model_call
from paring.graph.branches import first_of, uses_of
from paring.graph.macs import weighted_layers
from paring.types import Inputs

ENOUGH_LAYERS = 2
SAME_DIRECTION = 0.5


class Passthrough(nn.Module):
    """The identity in place of a block: takes whatever the block took and gives its first argument."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return first_of(args, kwargs)


class Nothing(nn.Module):
    """A zero in place of a branch, so that the sum that it was part of is what it is without it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zero, without dimensions."""
        given: Tensor = first_of(args, kwargs)
        return given.new_zeros(())


StandIns: TypeAlias = Mapping[str, type[Passthrough] | type[Nothing]]
"""Qualified name of a module -> what can take its place."""


@dataclass(frozen=True, eq=False)
class ShapeKeeping:
    """A module whose output is one tensor of its first input's shape and type, with the arguments of its first call."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def shape_keeping_modules(model: nn.Module, inputs: Inputs) -> dict[str, ShapeKeeping]:
    """Modules with weights that keep the shape of their first input at every call, in the order of the network.

    The network itself is not among them. Runs one forward.
    """
    calls: dict[str, ShapeKeeping] = {}
    changing: set[str] = set()
    handles: list[RemovableHandle] = []

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in calls:
                # Copies: an in-place operation further on would change what the block was given.
                calls[name] = ShapeKeeping(
                    module, tuple(map(_copied, args)), {k: _copied(v) for k, v in kwargs.items()}
                )

        return hook

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = first_of(args, kwargs)
            tensors = isinstance(given, Tensor) and isinstance(output, Tensor)
            if not tensors or given.shape != output.shape or given.dtype != output.dtype:
                changing.add(name)

        return hook

    for name, module in model.named_modules():
        if name and weighted_layers(module):
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name), with_kwargs=True))
    try:
        with torch.no_grad():
            model_call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: calls[name] for name, _ in model.named_modules() if name in calls and name not in changing}


def _copied(value: Any) -> Any:
    """A tensor's copy; anything else as it is."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def removable_blocks(model: nn.Module, inputs: Inputs) -> StandIns:
    """The blocks that can go and what stands in for each, in the order of the network; none lies in another.

    Blocks that pass their input on when their weights are zero, so are residual, come first: of several within each
    other the innermost; the identity stands in for them. Then branches, whose output is added at every call to what
    their input came from, and used for nothing else: the outermost, and nothing stands in for them, where that does
    what zeros do. Where a module keeps its shape, holds two weighted layers, is given what nothing else reads and has
    nothing to do with either, it counts too: again the innermost.
    """
    keeping, uses = shape_keeping_modules(model, inputs), uses_of(model, inputs)
    branches = uses.branches()
    residual = _innermost([name for name in keeping if name not in branches and _passes_on(keeping[name])])
    added = neutral(model, inputs, outermost(_apart(branches, residual)))
    plain = _innermost([name for name, call in keeping.items() if _is_plain(call) and uses.in_line(name)])
    chosen: StandIns = {
        **dict.fromkeys([*residual, *_apart(plain, [*residual, *branches])], Passthrough),
        **dict.fromkeys(added, Nothing),
    }
    return {name: chosen[name] for name, _ in model.named_modules() if name in chosen}


def stand_ins(model: nn.Module, inputs: Inputs) -> StandIns:
    """What can take the place of any module that keeps the shape of its input, or is a branch: see `neutral`."""
    branches = uses_of(model, inputs).branches()
    return {**dict.fromkeys(shape_keeping_modules(model, inputs), Passthrough), **dict.fromkeys(branches, Nothing)}


def neutral(model: nn.Module, inputs: Inputs, branches: Sequence[str]) -> list[str]:
    """The branches in whose place nothing gives what zeros of their shape give: code may read that shape.

    As a rule all of them do, which is seen at once; else each is looked at alone.
    """
    if not branches or _is_neutral(model, inputs, branches):
        return list(branches)
    return [name for name in branches if _is_neutral(model, inputs, [name])]


def _is_neutral(model: nn.Module, inputs: Inputs, branches: Sequence[str]) -> bool:
    """Whether the network runs without these, and gives what it gives with zeros for their outputs."""
    smaller = without_blocks(model, dict.fromkeys(branches, Nothing))
    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        for name in branches
    ]
    try:
        with torch.no_grad():
            found, expected = (tree_leaves(model_call(network, inputs)) for network in (smaller, model))
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-4, equal_nan=True)
    except Exception:  # It is anybody's code.
        return False
    finally:
        for handle in handles:
            handle.remove()
    return True


def without_blocks(model: nn.Module, blocks: StandIns) -> nn.Module:
    """A copy of the network with others in place of these modules, under every name that they go by."""
    result = copy.deepcopy(model)
    doomed = {id(result.get_submodule(block)): stand_in for block, stand_in in blocks.items()}
    names = {name: id(module) for name, module in result.named_modules(remove_duplicate=False) if id(module) in doomed}
    for name in outermost(list(names)):
        result.set_submodule(name, doomed[names[name]]().eval())
    return result


def outermost(names: Sequence[str]) -> tuple[str, ...]:
    """The names that lie in none of the others."""
    return tuple(
        name for name in dict.fromkeys(names) if not any(within(name, other) for other in names if other != name)
    )


def within(name: str, block: str) -> bool:
    """Whether a module is the block or lies in it."""
    return name == block or name.startswith(f"{block}.")


def _is_plain(call: ShapeKeeping) -> bool:
    """Whether it holds enough to be worth the while."""
    return len(weighted_layers(call.module)) >= ENOUGH_LAYERS


def _innermost(names: list[str]) -> list[str]:
    """The names that hold none of the others."""
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _apart(names: list[str], others: list[str]) -> list[str]:
    """The names that neither hold nor lie in any of the others."""
    return [name for name in names if not any(within(name, other) or within(other, name) for other in others)]


def _passes_on(call: ShapeKeeping) -> bool:
    """Whether the block without its weights still gives much of its input: it is residual.

    Two trials: with every parameter at zero (batch norms then give nothing), and with the factors of normalisation at
    one (a layer norm after the sum then passes it on).
    """
    return any(_correlation(call, normalised) > SAME_DIRECTION for normalised in (False, True))


def _correlation(call: ShapeKeeping, normalised: bool) -> float:
    """Correlation of input and output of a block whose weights are zero; 0 where either is constant."""
    block = copy.deepcopy(call.module)
    for name, parameter in block.named_parameters():
        parameter.detach().fill_(float(normalised and parameter.dim() == 1 and name.endswith("weight")))
    given = first_of(call.args, call.kwargs).double().flatten()
    with torch.no_grad():
        output = block(*map(_copied, call.args), **{name: _copied(value) for name, value in call.kwargs.items()})
    result = output.double().flatten()
    given, result = given - given.mean(), result - result.mean()
    size = float(given.norm() * result.norm())
    return float(given @ result) / size if size > 0 else 0.0
