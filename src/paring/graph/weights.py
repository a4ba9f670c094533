"""Weights: the matrices of a network as (outputs, inputs), whatever layer holds them."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import ParametrizationList

from paring.errors import TechniqueError
from paring.graph.products import Layout, products
from paring.types import Inputs

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (*CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, ParametrizationList)
WEIGHT = re.compile(r"weight|weight_(ih|hh|hr).*|original\d*|([qkv]|in)_proj_weight")
"""What their weights are called; a subclass may have factors of its own beside them."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Matrix:
    """One weight: its name, its layer's name, the layer, and how outputs and inputs lie in it.

    A vector, of whatever shape, is a column.
    """

    name: str
    layer: str
    module: nn.Module
    layout: Layout

    @property
    def parameter(self) -> nn.Parameter:
        """The weight itself."""
        return self.module.get_parameter(self.name.rpartition(".")[2])

    @property
    def is_vector(self) -> bool:
        """Whether it is added or scales, one number for each channel or place."""
        return self.layout == "vector"

    @property
    def is_bias(self) -> bool:
        """Whether it is added: a layer can do without, while one that multiplies by nothing but zeros tells nothing."""
        return self.is_vector and "bias" in self.name.rpartition(".")[2]

    @property
    @torch.no_grad()
    def takes_zeros(self) -> bool:
        """Whether zeros here are zeros of what the layer uses: a parametrization may make other values of them.

        Weight and spectral normalisation scale, which keeps zeros; to make a weight orthogonal mixes all that is here.
        """
        if not isinstance(self.module, ParametrizationList):
            return True
        made = copy.deepcopy(self.module).eval()
        values = made.get_parameter(self.name.rpartition(".")[2])
        gone = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        values.masked_fill_(gone, 0)
        weight = made()
        return weight.shape == values.shape and not weight[gone].any()

    def rows(self, values: Tensor) -> Tensor:
        """Values like the weight -> (outputs, inputs): positions of the kernel one after the other, each all inputs.

        Inputs that lie side by side in memory as runtimes lay activations out are neighbours here.
        """
        if self.is_vector:
            return values.reshape(-1, 1)
        if self.layout in ("outputs-first", "inputs-first"):
            return (values if self.layout == "outputs-first" else values.transpose(-1, -2)).flatten(0, -2)
        if self.layout == "transposed":
            values = _turned(values, self.groups)
        return values.movedim(1, -1).flatten(1)

    def like(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        shape = list(self.parameter.shape)
        if self.is_vector:
            return rows.reshape(shape)
        if self.layout == "inputs-first":
            return rows.reshape(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2).contiguous()
        if self.layout == "outputs-first":
            return rows.reshape(shape)
        values = rows.reshape(len(rows), *shape[2:], self.inputs_at_once).movedim(-1, 1)
        if self.layout == "transposed":
            values = _turned(values, self.groups)
        return values.contiguous()

    @property
    def inputs_at_once(self) -> int:
        """How many inputs lie side by side: a run of weights that a pattern may not cross."""
        shape = self.parameter.shape
        if self.is_vector:
            return 1
        if self.layout == "transposed":
            return int(shape[0]) // self.groups
        return int(shape[{"convolution": 1, "outputs-first": -1, "inputs-first": -2}[self.layout]])

    @property
    def groups(self) -> int:
        """Groups of outputs that read different inputs."""
        return int(self.module.groups) if isinstance(self.module, CONVOLUTIONS) else 1

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of one output, as `rows` has them."""
        shape = self.parameter.shape
        if self.is_vector:
            return self.parameter.numel(), 1
        if self.layout in ("convolution", "transposed"):
            outputs = int(shape[1]) * self.groups if self.layout == "transposed" else int(shape[0])
            return outputs, self.parameter.numel() // max(outputs, 1)
        return self.parameter.numel() // max(self.inputs_at_once, 1), self.inputs_at_once

    @property
    def followed(self) -> bool:
        """Whether the layer gives a plain matrix product of this weight with its input."""
        return isinstance(self.module, nn.Linear | Convolution)

    def patches(self, inputs: Tensor) -> Tensor:
        """What the weight of a followed layer is multiplied with, shape (groups, positions, n), n as in `rows`."""
        if isinstance(self.module, Convolution):
            return _convolved(self.module, inputs)
        return inputs.reshape(1, -1, inputs.shape[-1])


def _turned(values: Tensor, groups: int) -> Tensor:
    """(in, out / groups, ...) -> (out, in / groups, ...), and back."""
    return values.reshape(groups, -1, *values.shape[1:]).transpose(1, 2).flatten(0, 1)


def _convolved(module: Convolution, inputs: Tensor) -> Tensor:
    """The patches of a convolution: another one, whose filters each pick one place, gives them."""
    space = len(module.kernel_size)
    if inputs.ndim == space + 1:
        inputs = inputs[None]
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        inputs = F.pad(inputs, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        padding = 0
    width = module.in_channels // module.groups
    positions = int(torch.tensor(module.kernel_size).prod())
    n = width * positions
    picks = torch.eye(n, dtype=inputs.dtype).reshape(n, *module.kernel_size, width).movedim(-1, 1)
    grouped = picks.repeat(module.groups, *[1] * (space + 1))
    found = CONVOLVE[space](inputs, grouped, None, module.stride, padding, module.dilation, module.groups)
    return found.reshape(len(inputs), module.groups, n, -1).permute(1, 0, 3, 2).flatten(1, 2)


def matrices(model: nn.Module, inputs: Inputs | None = None, *, vectors: bool = False) -> tuple[Matrix, ...]:
    """Every floating-point weight that is multiplied as a matrix or a filter, tied ones once; no lookup tables.

    Of layers that torch does not define those that are seen to be in a forward on the `inputs`. With `vectors` all
    other parameters too: biases, factors and shifts of normalisation, what is added to embeddings.
    """
    asked = [each for each in _parameters(model) if each[1].is_floating_point()]
    known = {name: _known_layout(name, parameter, module) for name, parameter, module in asked}
    unclear = any(known[name] is None and parameter.ndim > 1 for name, parameter, _ in asked)
    used = products(model, inputs) if unclear and inputs is not None else {}
    found = (Matrix(n, n.rpartition(".")[0], module, known[n] or used.get(n, "vector")) for n, _, module in asked)
    return tuple(matrix for matrix in found if vectors or not matrix.is_vector)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Names, parameters and the modules that hold them."""
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, TABLES) and not _only_scales(parameter, module):
            yield name, parameter, module


def _known_layout(name: str, parameter: nn.Parameter, module: nn.Module) -> Layout | None:
    """How a weight lies in a layer of torch; None for a parameter of any other kind."""
    if parameter.ndim < 2 or not WEIGHT.fullmatch(name.rpartition(".")[2]) or not isinstance(module, LAYERS):
        return None
    return "transposed" if isinstance(module, TRANSPOSED) else "convolution"


def _only_scales(parameter: nn.Parameter, module: nn.Module) -> bool:
    """Whether a weight is made from this and a larger one, as by weight normalisation: its zeros would be channels."""
    originals = module.parameters(recurse=False) if isinstance(module, ParametrizationList) else ()
    return any(each.numel() > parameter.numel() for each in originals)


def held_by(model: nn.Module, known: Sequence[Matrix], layer: str) -> list[Matrix]:
    """Of the weights of a network those that a layer itself holds, also those that it shares with another one."""
    own = {id(parameter) for parameter in model.get_submodule(layer).parameters(recurse=False)}
    return [matrix for matrix in known if id(matrix.parameter) in own]


def check_layers(asked: Collection[str], known: Collection[str], model: nn.Module, setting: str) -> None:
    """Raise TechniqueError, with the closest names, for a layer that holds no weights, or those of another one."""
    for layer in asked:
        if layer in known:
            continue
        owner = _owner(layer, model)
        if owner is not None and owner in known:
            raise TechniqueError(f"{setting} names {layer!r}, which shares its weight with {owner!r}: name that one.")
        matches = difflib.get_close_matches(layer, sorted(known), n=3, cutoff=0.0)
        close = ", ".join(each or "'', the network itself" for each in matches) or "none has any"
        what = "which holds no weights"
        if owner is not None or any(name.rpartition(".")[0] == layer for name, _ in model.named_parameters()):
            what = "whose values are looked up, added or scale"
        raise TechniqueError(f"{setting} names {layer!r}, {what}: use a layer that does ({close}).")


def _owner(layer: str, model: nn.Module) -> str | None:
    """The layer by whose name a weight goes that this one holds too; None where there is none."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.rpartition(".")[0] == layer and names[id(parameter)] != name:
            return names[id(parameter)].rpartition(".")[0]
    return None


def check_modules(asked: Collection[str], model: nn.Module, setting: str) -> None:
    """Raise TechniqueError, with the closest names, for a module that the network does not have."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for module in asked:
        if module not in names:
            close = ", ".join(difflib.get_close_matches(module, names, n=3, cutoff=0.0)) or "none: it has no modules"
            told = f"{setting} names {module!r}, which the network does not have"
            raise TechniqueError(f"{told}; the closest are {close}.")
