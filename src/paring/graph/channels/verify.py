"""Proof of a removal: the smaller network gives what the original gives with these channels switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from paring.data.batches import mapped, model_call, tensors_of
from paring.errors import TechniqueError
from paring.graph.channels.atoms import Slot
from paring.graph.channels.decided import Deciding, is_continuous
from paring.graph.channels.groups import ChannelGroup
from paring.graph.channels.precision import InDouble, in_double, widened
from paring.graph.channels.sizes import Removal, removed_indices
from paring.graph.channels.trace import Trace, state
from paring.types import Inputs

Outputs: TypeAlias = tuple[tuple[Tensor, ...], ...]
"""Each output of a network, and behind it what it was decided by, as labels are by scores."""

MASK = 1e4
"""So many times the usual size of outputs is no output, but what a mask has put there."""

EXACT = 1e-8
"""How far two ways to sum up the same may lie apart in double precision, as a share of the largest value."""


class _SwitchedOff(Interpreter):
    """Runs the original graph with zeros in all parameters of the removed channels.

    A layer norm takes its statistics over the kept channels only; everything else runs as it is.
    """

    def __init__(self, traced: Trace, gone: dict[Slot, set[int]]) -> None:
        super().__init__(traced.program.graph_module)
        self.traced = traced
        self.gone = gone

    def run_node(self, n: Node) -> Any:
        """One operator; a norm over removed channels is replaced by one over the rest."""
        target = n.target
        if target is torch.ops.aten._assert_tensor_metadata.default:
            return None  # It holds in the network's own precision alone.
        if target not in (torch.ops.aten.layer_norm.default, torch.ops.aten.rms_norm.default):
            return super().run_node(n)
        arguments, _ = self.fetch_args_kwargs_from_env(n)
        kept = self._kept(n)
        if kept is None:
            return super().run_node(n)
        affine = [value[kept] if isinstance(value, Tensor) else value for value in arguments[2:4]]
        inputs = arguments[0][..., kept]
        if target is torch.ops.aten.layer_norm.default:
            weight, bias = (*affine, None, None)[:2]
            epsilon = arguments[4] if len(arguments) > 4 else 1e-5
            normed = F.layer_norm(inputs, (len(kept),), weight, bias, epsilon)
        else:
            epsilon = arguments[3] if len(arguments) > 3 else None
            normed = F.rms_norm(inputs, (len(kept),), affine[0] if affine else None, epsilon)
        return torch.zeros_like(arguments[0]).index_copy(-1, kept, normed)

    def _kept(self, node: Node) -> Tensor | None:
        """Indices of the last dimension that stay; None where all do."""
        ids = self.traced.dims(node)[-1]
        atoms = self.traced.atoms
        places = [] if ids is None else [atoms.place(atom) for atom in ids.tolist()]
        kept = [at for at, (slot, index) in enumerate(places) if index not in self.gone.get(slot, ())]
        return None if len(kept) == len(places) else torch.tensor(kept)


def switched_off(traced: Trace, model: nn.Module, inputs: Inputs, gone: dict[Slot, set[int]]) -> tuple[Tensor, ...]:
    """Outputs of the original with zeros in every parameter and buffer of the removed channels."""
    tensors, program = state(model), traced.program
    constants = program.graph_signature.inputs_to_lifted_tensor_constants
    given = iter(tensors_of(inputs))
    values: list[Any] = []
    for node in program.graph.find_nodes(op="placeholder"):
        if node in traced.states:
            values.append(_zeroed(tensors[traced.states[node]], traced.states[node], gone))
        elif node.name in constants:
            values.append(program.constants[constants[node.name]])
        else:
            values.append(next(given))
    with torch.no_grad():
        return flat(_SwitchedOff(traced, gone).run(*values))


def _zeroed(tensor: Tensor, name: str, gone: dict[Slot, set[int]]) -> Tensor:
    """A copy with zeros at the removed indices."""
    result = tensor.detach().clone()
    for slot, indices in gone.items():
        if slot.tensor == name:
            result.index_fill_(slot.dim, torch.tensor(sorted(indices), device=tensor.device), 0)
    return result


def flat(outputs: Any) -> tuple[Tensor, ...]:
    """All tensors of an output, however nested, in order."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    return tuple(tensor for value in outputs for tensor in flat(value)) if isinstance(outputs, tuple | list) else ()


def run(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Outputs of one forward. TechniqueError names the innermost module that failed."""
    entered: list[str] = []

    def leave(*_: Any) -> None:
        entered.pop()

    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: entered.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad():
            return flat(model_call(model, inputs))
    except Exception as error:
        where = f"module {entered[-1]!r}" if entered and entered[-1] else "the network's own forward"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise TechniqueError(f"{where} relies on the original number of channels ({reason[0]})") from error
    finally:
        for handle in handles:
            handle.remove()


def check_removal(
    traced: Trace,
    model: nn.Module,
    smaller: nn.Module,
    inputs: Inputs,
    groups: Iterable[ChannelGroup],
    removal: Removal,
) -> None:
    """Raise TechniqueError where the smaller network does not give what the original gives with the channels off.

    Labels of a few rows hide a wrong network, and so do truth values: the scores that they were decided by must be what
    they were too.
    """
    found, expected, tolerance = _outputs(traced, model, smaller, inputs, removed_indices(groups, removal))
    without = without_channels(removal)
    if len(found) != len(expected):
        raise TechniqueError(f"{without} the network gives {len(found)} outputs, not {len(expected)}")
    for index, (values, references) in enumerate(zip(found, expected, strict=True)):
        shapes, original = ([tuple(tensor.shape) for tensor in tensors] for tensors in (values, references))
        if shapes[0] != original[0]:
            raise TechniqueError(f"{without} output {index} has shape {shapes[0]}, not {original[0]}")
        if shapes != original or not all(map(partial(_close, tolerance=tolerance), values, references)):
            raise TechniqueError(f"{without} output {index} is not what it is with those channels at zero")


def without_channels(removal: Removal) -> str:
    """How a sentence on a removal begins."""
    return "without channels of " + ", ".join(repr(name) for name, rows in removal.items() if rows)


def _outputs(
    traced: Trace, model: nn.Module, smaller: nn.Module, inputs: Inputs, gone: dict[Slot, set[int]]
) -> tuple[Outputs, Outputs, float]:
    """What the smaller network gives, what the original gives with channels switched off, and how much they may differ.

    In double precision, where they differ by rounding alone, so that a scale that follows the number of channels shows
    however small its effect is. Some networks insist on their own type, and some kernels have no other.
    """
    wide, double = mapped(inputs, widened), in_double(smaller)
    try:
        with InDouble():
            found = _decided(lambda: run(double, wide))
            return found, _decided(lambda: switched_off(traced, model, wide, gone)), EXACT
    except Exception:
        found = _decided(lambda: run(smaller, inputs))
        expected = _decided(lambda: switched_off(traced, model, inputs, gone))
        types = [tensor.dtype for tensors in expected for tensor in tensors if is_continuous(tensor)]
        return found, expected, max((torch.finfo(dtype).eps ** 0.5 for dtype in types), default=0.0)


def _decided(forward: Callable[[], tuple[Tensor, ...]]) -> Outputs:
    """The outputs of a forward, each with what it was decided by."""
    with Deciding() as deciding:
        outputs = forward()
    return tuple((output, *deciding.deciders(output)) for output in outputs)


def _close(value: Tensor, reference: Tensor, tolerance: float) -> bool:
    """Equal up to the rounding of another order of summation, which is a share of the largest value.

    Integers and truth values are equal or are not; of complex numbers both parts are looked at. What masks put there,
    such as -1e9 among logits, is compared with itself and hides no difference of the others.
    """
    if not is_continuous(reference):
        return torch.equal(value, reference)
    if reference.is_complex():
        value, reference = (torch.view_as_real(tensor.resolve_conj()) for tensor in (value, reference))
    sizes = reference.detach().double().abs()
    sizes = sizes[sizes.isfinite() & (sizes > 0)]
    usual = sizes[sizes <= MASK * sizes.median()] if sizes.numel() else sizes
    scale = max(float(usual.max()), 1e-6) if usual.numel() else 1.0
    return torch.allclose(value, reference, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
