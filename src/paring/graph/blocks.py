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
from paring.errors import in_words
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


@dataclass(frozen=True)
class Blocks:
    """The blocks that can go with what stands in for each, and for each that looks like one why it can't."""

    removable: StandIns
    refused: Mapping[str, str]


def blocks_of(model: nn.Module, inputs: Inputs) -> Blocks:
    """The blocks of a network, in its order; none lies in another.

    Blocks that pass their input on when their weights are zero, so are residual, come first: of several within each
    other the innermost; the identity stands in for them. Then branches, whose output is added at every call to what
    their input came from, and used for nothing else: the outermost, and nothing stands in for them. Where a module
    keeps its shape, holds two weighted layers, is given what nothing else reads and has nothing to do with either, it
    counts too: again the innermost. Of all of these those can go that are not refused (`refusals`).
    """
    keeping, uses = shape_keeping_modules(model, inputs), uses_of(model, inputs)
    branches = uses.branches()
    residual = _innermost([name for name in keeping if name not in branches and _passes_on(keeping[name])])
    plain = _innermost([name for name, call in keeping.items() if _is_plain(call) and uses.in_line(name)])
    chosen: StandIns = {
        **dict.fromkeys([*residual, *_apart(plain, [*residual, *branches])], Passthrough),
        **dict.fromkeys(outermost(_apart(branches, residual)), Nothing),
    }
    refused = refusals(model, inputs, chosen)
    names = [name for name, _ in model.named_modules() if name in chosen and name not in refused]
    return Blocks({name: chosen[name] for name in names}, refused)


def stand_ins(model: nn.Module, inputs: Inputs) -> StandIns:
    """What can take the place of any module that keeps the shape of its input, or is a branch: see `refusals`."""
    branches = uses_of(model, inputs).branches()
    return {**dict.fromkeys(shape_keeping_modules(model, inputs), Passthrough), **dict.fromkeys(branches, Nothing)}


def refusals(model: nn.Module, inputs: Inputs, blocks: StandIns) -> dict[str, str]:
    """Why blocks can't give way to their stand-ins, for each of which that holds: code may look into what it calls.

    As a rule all of them can, which is seen at once; else each is looked at alone.
    """
    if not blocks or not _failure(model, inputs, blocks):
        return {}
    failures = {name: _failure(model, inputs, {name: stand_in}) for name, stand_in in blocks.items()}
    kinds = {name: "nothing" if blocks[name] is Nothing else "the identity" for name in blocks}
    return {
        name: f"can't give way to {kinds[name]}, since then the network {failure}"
        for name, failure in failures.items()
        if failure
    }


def _failure(model: nn.Module, inputs: Inputs, blocks: StandIns) -> str:
    """What is wrong with the network once these gave way; empty where nothing is.

    It has to run, and nothing in place of a branch has to do what zeros of the branch's shape do.
    """
    try:
        found = _outputs(without_blocks(model, blocks), inputs)
    except Exception as error:  # It is anybody's code.
        return f"does not run ({in_words(error)})"
    added = [name for name, stand_in in blocks.items() if stand_in is Nothing]
    if not added:
        return ""
    zeroed = without_blocks(model, {name: blocks[name] for name in blocks if name not in added})
    for name in added:
        zeroed.get_submodule(name).register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    try:
        for value, reference in zip(found, _outputs(zeroed, inputs), strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-4, equal_nan=True)
    except Exception:  # Anybody's code again, and anything may be among the outputs.
        return "does something else than with zeros there, as where code reads the shape of what it gives"
    return ""


def _outputs(model: nn.Module, inputs: Inputs) -> list[Any]:
    """All that a network gives, however nested, in order."""
    with torch.no_grad():
        return tree_leaves(model_call(model, inputs))


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
