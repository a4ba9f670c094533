"""Layers whose inputs and weights take the few values of a number format, in floating point, as integers later will.

Such a layer is the one that it was, with two modules more: what its input and what its weight go through. In a training
these learn (`paring.train.quantizers`); afterwards they are `FixedInputs` and `FixedWeights`, which an export writes as
QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from paring.data.batches import model_call
from paring.ops.binarization import input_scales
from paring.types import Inputs

SMALLEST, LARGEST = -128, 127
"""Of a weight's levels, as int8 holds them."""


class _Quantized(nn.Module):
    """The forward pass of all kinds."""

    input_quantizer: nn.Module
    weight_quantizer: nn.Module
    input_scales: nn.Module | None
    output_quantizer: nn.Module | None
    formats: str
    norm: str
    weight: Tensor
    bias: Any
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """The layer on quantized values."""
        values, weight = self.input_quantizer(input), self.weight_quantizer(self.weight)
        found = self._conv_forward(values, weight, self.bias if self.input_scales is None else None)
        if self.output_quantizer is not None:
            found = self.output_quantizer(found)
        if self.input_scales is None:
            return found
        scaled: Tensor = found * self.input_scales(input, self.input_quantizer)
        return scaled if self.bias is None else scaled + self.bias.reshape(-1, *[1] * (self.weight.ndim - 2))


class QuantizedConv1d(_Quantized, nn.Conv1d):
    """A 1-D convolution."""


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A 2-D convolution."""


class QuantizedConv3d(_Quantized, nn.Conv3d):
    """A 3-D convolution."""


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(input, weight, bias)


QuantizedLayer = QuantizedConv1d | QuantizedConv2d | QuantizedConv3d | QuantizedLinear
KINDS: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.Linear: QuantizedLinear,
}


def quantize_(
    layer: nn.Module, inputs: nn.Module, weights: nn.Module, formats: str = "", *, scaled: bool = False
) -> None:
    """Let a layer, one of `KINDS`, see its input and its weight through these; its parameters keep their names.

    `formats` tells people what these are. With `scaled` its output is brought to the size of its input.
    """
    scales = PlaceScales(layer) if scaled else None
    layer.__class__ = KINDS[type(layer)]
    quantized = cast(QuantizedLayer, layer)
    quantized.input_quantizer, quantized.weight_quantizer = inputs, weights
    quantized.input_scales, quantized.output_quantizer = scales, None
    quantized.formats, quantized.norm = formats, ""
    # Transformer layers of torch that only answer read the weights of others past their forward, unless these have one.
    layer.register_forward_pre_hook(_nothing)


def quantize_output_(module: nn.Module, quantizer: nn.Module) -> None:
    """Let what a quantized layer multiplies, or what another module gives, go through a quantizer."""
    module.output_quantizer = quantizer
    if not isinstance(module, _Quantized):
        module.register_forward_hook(_through_quantizer)


def quantized_outputs(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose `output_quantizer` quantizes what they give."""
    yield from (module for module in model.modules() if getattr(module, "output_quantizer", None) is not None)


def _through_quantizer(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Any:
    """A hook behind a module."""
    return module.output_quantizer(output)  # type: ignore[operator]


def _nothing(module: nn.Module, given: tuple[Any, ...]) -> None:
    """A hook that changes nothing."""


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Those of a network, by name."""
    kinds = tuple(KINDS.values())
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, kinds))


def read_by(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The input of a layer that is called with these."""
    value: Tensor = given[0] if given else named["input"]
    return value


def called_layers(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """The layers of `KINDS` that run as modules on these inputs, in the order of their first calls.

    Each has a number for the tensor that it reads: layers with one number read the same tensor.
    """
    names = {module: name for name, module in model.named_modules() if type(module) in KINDS}
    found: dict[str, int] = {}
    seen: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        # Tensors are kept until the end, so that no other one takes the place of one that is gone.
        read = read_by(given, named)
        number = next((at for at, value in enumerate(seen) if value is read), len(seen))
        seen.extend([read] if number == len(seen) else [])
        found.setdefault(names[module], number)

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in names]
    try:
        with torch.no_grad():
            model_call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def unscaled_reason(layer: nn.Module) -> str:
    """Why the sizes around each place can't be taken for a layer's input; empty where they can."""
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        return "is a convolution of groups, or not of images"
    narrow = not isinstance(layer.padding, str) and all(
        2 * each <= size for each, size in zip(layer.padding, layer.kernel_size, strict=True)
    )
    usual = layer.padding_mode == "zeros" and set(layer.dilation) == {1}
    return "" if narrow and usual else "has a dilation, or a padding other than zeros for at most half its window"


class PlaceScales(nn.Module):
    """What an output is multiplied by: mean |input - middle| around its place, over the one size that all signs have.

    K of Rastegari et al. 2016, XNOR-Net, section 3.2, there with 0 for the middle; of a linear layer the mean of each
    row. It is no part of what the middle learns by.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        images = isinstance(layer, nn.Conv2d)
        self.window: Any = (layer.kernel_size, layer.stride, layer.padding) if images else None

    def forward(self, values: Tensor, signs: Any) -> Tensor:
        """(batch, channels, h, w) -> (batch, 1, out_h, out_w), or (..., features) -> (..., 1).

        `signs` is what the input is quantized by, around its `middle`, to its `scale`.
        """
        rest = values.to(torch.promote_types(values.dtype, torch.float32)) - signs.middle.detach()
        sizes = rest.abs().mean(-1, keepdim=True) if self.window is None else input_scales(rest, *self.window)
        found: Tensor = sizes / signs.scale
        return found.to(values.dtype)


class FixedWeights(nn.Module):
    """Weights that are levels times a scale for each output channel: they pass through as they are.

    What an export sees tells it the integers: round(weight / scale).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone())
        self.register_buffer("zero_point", torch.zeros_like(self.scale, dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        """The same weight."""
        return torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero_point, 0, SMALLEST, LARGEST)


class FixedInputs(nn.Module):
    """scale * (clip(round(x / scale) + zero_point, low, high) - zero_point), for a whole tensor.

    low..high lie in 0..255 or in -128..127. With `signs_around`, x is scale where it is at least that, else -scale.
    In single operations, which an export shows as they are: torch's own for this has no form for batches of any size.
    """

    scale: Tensor
    zero_point: Tensor
    middle: Tensor | None

    def __init__(
        self, scale: Tensor, zero_point: int, low: int, high: int, *, signs_around: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone())
        self.register_buffer("zero_point", torch.full_like(self.scale, zero_point))
        self.register_buffer("middle", None if signs_around is None else signs_around.detach().float().clone())
        self.low, self.high = low, high

    def forward(self, values: Tensor) -> Tensor:
        """The nearest of the values that there are."""
        # Half the bits would round to other levels.
        given = values.to(torch.promote_types(values.dtype, torch.float32))
        if self.middle is not None:
            given = torch.where(given >= self.middle, self.scale, -self.scale)
        codes = (torch.round(given / self.scale) + self.zero_point).clamp(self.low, self.high)
        return ((codes - self.zero_point) * self.scale).to(values.dtype)
