"""Layers whose output is read in floating point in such a way that runtimes leave them float too.

Of a convolution that is any: there is no kernel that takes integers and gives floats. A linear layer of rows has one,
which is not found where a rectifier follows that no integers follow, or where integers are read of it beside floats.

Autograd's graph of one forward pass tells who reads what. What it does not show, as where a network turns gradients
off, counts as read in floating point.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from paring.data.batches import model_call
from paring.graph.copies import copied
from paring.graph.fake_quantized import read_by
from paring.ops.formats import Format
from paring.types import Inputs

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ENDLESS = (-torch.inf, torch.inf)
RECTIFIER = "ReluBackward0"
CLIP = "HardtanhBackward0"
POOL = "MaxPool"


@dataclass(frozen=True)
class OpenOutput:
    """What `layer` gives is read in floating point behind `module`, which is itself or its batch norm.

    Whoever reads it takes what is below low for low, and what is above high for high.
    """

    layer: str
    module: str
    low: float
    high: float


def open_outputs(
    model: nn.Module, inputs: Inputs, read_as: Mapping[str, tuple[Any, Format]]
) -> tuple[list[OpenOutput], dict[str, str]]:
    """The open outputs of these layers, one for each call; and the batch norms that alone follow.

    `read_as` has what each layer quantizes its input to, and a key: those of one key read one result.
    """
    seen = _Pass(read_as)
    seen.follow(copied(model).eval(), inputs)
    return [found for call in seen.calls if (found := seen.open_output(*call)) is not None], seen.norms()


class _Pass:
    """The graph of a forward pass. Its nodes are kept, so that each stays one object."""

    def __init__(self, read_as: Mapping[str, tuple[Any, Format]]) -> None:
        self._read_as = read_as
        self.calls: list[tuple[str, Any]] = []
        self._convolutions: set[str] = set()
        self._rows: set[str] = set()
        self._layers: dict[Any, str] = {}
        self._norms: dict[Any, tuple[str, Any]] = {}
        self._entered: dict[str, Any] = {}
        self._readers: dict[Any, list[Any]] = defaultdict(list)

    def follow(self, model: nn.Module, inputs: Inputs) -> None:
        """Let the network answer, and note who read what; None is who called it."""
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with ExitStack() as hooks, torch.enable_grad():
            for name, module in model.named_modules():
                if name in self._read_as or isinstance(module, _BatchNorm):
                    hooks.callback(module.register_forward_pre_hook(self._enter(name), with_kwargs=True).remove)
                    hooks.callback(module.register_forward_hook(self._leave(name)).remove)
            answers = model_call(model, inputs)
        made = [each.grad_fn for each in tree_leaves(answers) if isinstance(each, Tensor)]
        waiting = list(dict.fromkeys(node for node in made if node is not None))
        for node in waiting:
            self._readers[node].append(None)
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            for maker in (maker for maker, _ in node.next_functions if maker is not None):
                self._readers[maker].append(node)
                if maker not in seen:
                    seen.add(maker)
                    waiting.append(maker)

    def _enter(self, name: str) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            # A copy that this call alone reads: a node that stands for it.
            read = read_by(given, named).clone()
            self._entered[name] = read.grad_fn
            if name in self._read_as and read.grad_fn is not None:
                self._layers[read.grad_fn] = name
            return ((read, *given[1:]), named) if given else (given, {**named, "input": read})

        return note

    def _leave(self, name: str) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            if isinstance(module, _BatchNorm) and self._entered[name] is not None:
                self._norms[self._entered[name]] = name, output.grad_fn
            if name in self._read_as:
                self.calls.append((name, output.grad_fn))
                self._convolutions.update({name} if isinstance(module, CONVOLUTIONS) else ())
                self._rows.update({name} if isinstance(module, nn.Linear) and output.ndim == 2 else ())

        return note

    def norms(self) -> dict[str, str]:
        """By the layer; both are called once."""
        found = [(layer, self._norm(made)[0]) for layer, made in self.calls]
        layers, norms = ([pair[at] for pair in found] for at in (0, 1))
        calls = Counter(name for name, _ in self._norms.values())
        return {
            layer: norm
            for layer, norm in found
            if norm and layers.count(layer) == norms.count(norm) == calls[norm] == 1
        }

    def _norm(self, made: Any) -> tuple[str, Any]:
        """The batch norm that alone reads what a call gave, and what it gives in turn; the same where there is none."""
        readers = self._readers.get(made, [])
        return self._norms.get(readers[0], ("", made)) if len(readers) == 1 else ("", made)

    def open_output(self, layer: str, made: Any) -> OpenOutput | None:
        """Of a call of a layer, by the node of what it gave; None where integers stand behind it as it is."""
        norm, made = self._norm(made)
        readers = self._readers.get(made, [])
        if self._reads_integers(readers) or not (layer in self._convolutions or self._misleads(layer, readers)):
            return None
        limits = {_limits(reader) for reader in readers}
        return OpenOutput(layer, norm or layer, *(limits.pop() if len(limits) == 1 else ENDLESS))

    def _misleads(self, layer: str, readers: list[Any]) -> bool:
        """Whether a layer of rows is read by a rectifier or by a quantizer."""
        rectified = any(each is not None and each.name() in (RECTIFIER, CLIP) for each in readers)
        return layer in self._rows and (rectified or any(each in self._layers for each in readers))

    def _reads_integers(self, readers: list[Any]) -> bool:
        """Whether all is read by one quantizer that a runtime joins to a convolution, through a rectifier and a pool.

        It joins a rectifier where 0 is the least of the integers, and no comparison with the middle of signs. A layer
        that is called more than once may read values below 0 elsewhere: then 0 is another integer.
        """
        rectified = False
        for name in (RECTIFIER, POOL):
            if len(readers) == 1 and readers[0] is not None and readers[0].name().startswith(name):
                rectified = rectified or name == RECTIFIER
                readers = self._readers[readers[0]]
        names = {self._layers.get(each, "") for each in readers}
        read = {self._read_as.get(name) for name in names}
        only = read.pop() if len(read) == 1 else None
        if only is None or only[1].name == "binary":
            return False
        calls = [name for name, _ in self.calls if name in names]
        return not rectified or (only[1].levels[0] == 0 and len(calls) == len(names))


def _limits(reader: Any) -> tuple[float, float]:
    """What a node leaves of the values that it reads."""
    if reader is not None and reader.name() == RECTIFIER:
        return 0.0, torch.inf
    if reader is not None and reader.name() == CLIP:
        return reader._saved_min_val, reader._saved_max_val
    return ENDLESS
