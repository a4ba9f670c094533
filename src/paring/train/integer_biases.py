"""Biases as integers will hold them: multiples of input scale x weight scale, also behind a batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paring.graph.fake_quantized import FixedInputs, FixedWeights, QuantizedLayer, quantized_layers
from paring.ops.quantization import widening


@torch.no_grad()
def round_biases_(model: nn.Module) -> None:
    """Round the biases of quantized layers, so that runtimes which compute with integers add the same."""
    for _, layer in quantized_layers(model):
        if not isinstance(layer.input_quantizer, FixedInputs) or layer.input_scales is not None:
            continue
        norm = model.get_submodule(layer.norm) if layer.norm else None
        unit = _unit(layer)
        if norm is None and layer.bias is not None:
            layer.bias = nn.Parameter(_rounded(layer.bias.double(), unit).to(layer.bias), layer.bias.requires_grad)
        elif isinstance(norm, _BatchNorm) and norm.affine and norm.running_mean is not None:
            _round_behind_(layer, norm, unit)


def _unit(layer: QuantizedLayer) -> Tensor:
    """(channels,) what the biases are multiples of."""
    assert isinstance(layer.weight_quantizer, FixedWeights)
    assert isinstance(layer.input_quantizer, FixedInputs)
    scale = layer.weight_quantizer.scale.double()
    largest = int((layer.weight.flatten(1) / scale[:, None]).abs().amax().round())
    return layer.input_quantizer.scale.double() * scale / widening(largest)


def _round_behind_(layer: QuantizedLayer, norm: _BatchNorm, unit: Tensor) -> None:
    """An export makes one layer of both, whose bias this is about."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias.double()
    rest = (bias - norm.running_mean.double()) * factor
    rounded = _rounded(norm.bias.double() + rest, unit * factor.abs()) - rest
    norm.bias = nn.Parameter(rounded.to(norm.bias), norm.bias.requires_grad)


def _rounded(values: Tensor, unit: Tensor) -> Tensor:
    """The nearest multiples, where there are such."""
    usable = unit >= torch.finfo(torch.float32).tiny
    return torch.where(usable, (values / unit).round() * unit, values)
