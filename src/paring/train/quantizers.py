"""What inputs and weights go through while a network is trained for few levels: scales that learn with the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from paring.graph.fake_quantized import FixedInputs, FixedWeights, quantized_layers
from paring.ops.binarization import binary_sign, binary_weights
from paring.ops.fake_quantization import learned_levels, learned_step, zero_point_of
from paring.ops.formats import Format
from paring.ops.initial_steps import least_squares_scale, step_gradient_scale
from paring.ops.quantization import SMALLEST_SCALE, Range
from paring.train.constraint import Constraint

WIDEST = 127
"""Weights keep to levels that have a counterpart of the other sign in int8, since a batch norm may turn them round."""


class LearnedWeights(nn.Module):
    """The nearest level times a scale that each output channel learns (Esser et al. 2020, LSQ).

    Two levels take mean|w| as scale, which is the best (Rastegari et al. 2016, XNOR-Net, eq. 6).
    """

    def __init__(self, weight: Tensor, form: Format) -> None:
        super().__init__()
        self.bits = self.wanted_bits = form.bits
        self.levels = self.wanted = tuple(level for level in form.levels if abs(level) <= WIDEST)
        self.scale = nn.Parameter(torch.ones(len(weight), device=weight.device))
        self.refit_(weight)

    @torch.no_grad()
    def refit_(self, weight: Tensor) -> None:
        """Scales of least squared error for these weights."""
        self.scale.copy_(least_squares_scale(weight, self.levels, axis=0))

    def lower_(self, progress: float, weight: Tensor) -> None:
        """As many bits as a share of the way down from 8 has; integers until the end, then the levels wanted."""
        bits = _bits_now(progress, self.wanted_bits)
        if bits != self.bits:
            self.bits = bits
            half = 2 ** (bits - 1)
            whole = tuple(map(float, range(-half + (bits == 8), half)))
            self.levels = self.wanted if bits == self.wanted_bits else whole
            self.refit_(weight)

    @property
    def is_binary(self) -> bool:
        """Whether there are two levels."""
        return len(self.levels) == 2

    def forward(self, weight: Tensor) -> Tensor:
        """Quantized weights, with gradients for them and for the scale."""
        if self.is_binary:
            return binary_weights(weight)
        low, high = self.levels[0], self.levels[-1]
        gradient_scale = step_gradient_scale(weight[0].numel(), high)
        if len(self.levels) == high - low + 1:
            return learned_step(weight, self.scale, int(low), int(high), axis=0, gradient_scale=gradient_scale)
        return learned_levels(weight, self.scale, self.levels, axis=0, gradient_scale=gradient_scale)

    @torch.no_grad()
    def fixed_(self, weight: nn.Parameter) -> FixedWeights:
        """Set the weight to what it was seen as, and give what it is to go through from now on."""
        scale = weight.abs().flatten(1).mean(1) if self.is_binary else self.scale
        scale = scale.clamp_min(SMALLEST_SCALE)
        seen = self(weight)
        weight.copy_(seen)
        return FixedWeights(scale)


class LearnedInputs(nn.Module):
    """The nearest of equally distant levels, whose distance is learned; of values of both signs the zero point too.

    Esser et al. 2020 (LSQ); Bhalgat et al. 2020 (LSQ+) for the zero point.
    """

    def __init__(self, form: Format, seen: Range, values_per_row: int) -> None:
        super().__init__()
        self.low, self.high, self.wanted_bits = int(form.levels[0]), int(form.levels[-1]), form.bits
        self.values_per_row = values_per_row
        width = max(seen.high, 0.0) - min(seen.low, 0.0) if self.low == 0 else max(-seen.low, seen.high)
        step = max(width / self.high, SMALLEST_SCALE) if width else 1.0
        self.step = nn.Parameter(torch.tensor(step))
        signed = self.low == 0 and seen.low < 0
        self.offset = nn.Parameter(torch.tensor(min(seen.low, 0.0))) if signed else None

    def forward(self, values: Tensor) -> Tensor:
        """Quantized values, with gradients for them, the step and the offset."""
        gradient_scale = step_gradient_scale(self.values_per_row, self.high)
        return learned_step(values, self.step, self.low, self.high, offset=self.offset, gradient_scale=gradient_scale)

    @torch.no_grad()
    def lower_(self, progress: float) -> None:
        """As many bits as a share of the way down from 8 has, in the range that is covered now."""
        bits = _bits_now(progress, self.wanted_bits)
        high = 2**bits - 1 if self.low == 0 else 2 ** (bits - 1) - 1
        if high != self.high:
            self.step.mul_(self.high / high)
            self.low, self.high = (0 if self.low == 0 else -high - 1), high

    @torch.no_grad()
    def fixed(self) -> FixedInputs:
        """What the inputs are to go through from now on."""
        step = self.step.clamp_min(SMALLEST_SCALE)
        zero = 0 if self.offset is None else int(zero_point_of(self.offset, step, self.low, self.high))
        return FixedInputs(step, zero, self.low, self.high)


class Signs(nn.Module):
    """Plus or minus a scale; the slope is that of a polynomial (Liu et al. 2018, Bi-Real Net, eq. 7).

    The scale is the mean magnitude that was seen: what follows takes it out again, or learns it.
    """

    def __init__(self, mean_magnitude: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(max(mean_magnitude, SMALLEST_SCALE)))

    scale: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Signs times the scale."""
        return binary_sign(values / self.scale, "polynomial") * self.scale

    def fixed(self) -> FixedInputs:
        """What the inputs are to go through from now on."""
        return FixedInputs(self.scale, 0, -128, 127, signs=True)


def fix_(model: nn.Module) -> None:
    """The training is over, eval mode begins: quantizers that learned become fixed, weights what they were seen as."""
    shared: dict[nn.Module, FixedInputs] = {}
    for _, layer in quantized_layers(model):
        inputs, weights = layer.input_quantizer, layer.weight_quantizer
        if isinstance(inputs, LearnedInputs | Signs):
            if inputs not in shared:
                shared[inputs] = inputs.fixed()
            layer.input_quantizer = shared[inputs]
        if isinstance(weights, LearnedWeights):
            assert isinstance(layer.weight, nn.Parameter)
            layer.weight_quantizer = weights.fixed_(layer.weight)
    model.eval()


class Lowering(Constraint):
    """Bits that go down one by one from 8 to those wanted, in the first half of a training; beside what else holds."""

    def __init__(self, model: nn.Module, held: Constraint) -> None:
        self.held = held
        self._layers = [layer for _, layer in quantized_layers(model)]

    @contextmanager
    def shown_(self, share: float) -> Iterator[None]:
        """The weights and inputs with as many bits as it is time for."""
        for layer in self._layers:
            inputs, weights = layer.input_quantizer, layer.weight_quantizer
            if isinstance(weights, LearnedWeights):
                weights.lower_(min(1.0, 2 * share), layer.weight)
            if isinstance(inputs, LearnedInputs):
                inputs.lower_(min(1.0, 2 * share))
        with self.held.shown_(share):
            yield

    def settle_(self) -> None:
        """What else holds."""
        self.held.settle_()


def _bits_now(progress: float, wanted: int) -> int:
    """From 8 bits to those wanted in equal times."""
    return max(wanted, 8 - int(progress * (9 - wanted)))
