"""What inputs and weights go through while a network is trained for few levels: scales that learn with the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from paring.graph.fake_quantized import FixedInputs, FixedWeights, quantized_layers, quantized_outputs
from paring.ops.binarization import binary_sign, binary_weights
from paring.ops.fake_quantization import learned_levels, learned_step, zero_point_of
from paring.ops.formats import Format
from paring.ops.initial_steps import least_squares_scale, step_gradient_scale
from paring.ops.quantization import SMALLEST_SCALE, Range
from paring.ops.ranges import Histogram
from paring.train.constraint import Constraint
from paring.train.integer_biases import round_biases_
from paring.train.rectifiers import NotedRectifiers, before_rectifier

WIDEST = 127
"""Weights keep to levels that have a counterpart of the other sign in int8, since a batch norm may turn them round."""


LARGEST_CHANGE = 1.01
"""Of a step by one update. Where levels are fine the gradient of a step is noise, which leads it far away.

In a few epochs on small images steps of 8 bits, left free, grew to 60 times their size, and others came down to 0.
"""


class WeightQuantizer(nn.Module, ABC):
    """What a weight goes through while it learns: (out_channels, ...) -> levels times scales, same shape."""

    @property
    def steps(self) -> tuple[nn.Parameter, ...]:
        """What it learns the distance of its levels by."""
        return ()

    @abstractmethod
    def fixed(self, weight: Tensor) -> tuple[Tensor, FixedWeights]:
        """What the weight was seen as, and what that is to go through from now on."""


class InputQuantizer(nn.Module, ABC):
    """What a layer's input, or what comes out of one, goes through in a training."""

    @property
    def is_binary(self) -> bool:
        """Whether there are two levels now. All depends on the side of their middle: rectifiers are looked behind."""
        return False

    @property
    def steps(self) -> tuple[nn.Parameter, ...]:
        """What it learns the distance of its levels by."""
        return ()

    @abstractmethod
    def fixed(self) -> FixedInputs:
        """What the inputs are to go through from now on."""


class LearnedWeights(WeightQuantizer):
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
    def steps(self) -> tuple[nn.Parameter, ...]:
        """One scale for each output channel."""
        return (self.scale,)

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
    def fixed(self, weight: Tensor) -> tuple[Tensor, FixedWeights]:
        """What the weight was seen as, and what that is to go through from now on."""
        scale = weight.abs().flatten(1).mean(1) if self.is_binary else self.scale
        return self(weight), FixedWeights(scale.clamp_min(SMALLEST_SCALE))


class LearnedInputs(InputQuantizer):
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

    @property
    def steps(self) -> tuple[nn.Parameter, ...]:
        """The one."""
        return (self.step,)

    def forward(self, values: Tensor) -> Tensor:
        """Quantized values, with gradients for them, the step and the offset."""
        # All below 0 becomes 0, as what a rectifier gives does.
        ends_at_zero = self.is_binary and self.low == 0 and self.offset is None
        return learned_step(
            before_rectifier(values) if ends_at_zero else values,
            self.step,
            self.low,
            self.high,
            offset=self.offset,
            gradient_scale=step_gradient_scale(self.values_per_row, self.high),
        )

    @property
    def is_binary(self) -> bool:
        """Whether there are two levels now."""
        return self.high - self.low == 1

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


class Signs(InputQuantizer):
    """Plus or minus a scale, where a value is on one side or the other of a learned middle (Liu et al. 2020, ReActNet).

    The middle begins at 0, or at the mean of values of one sign, which all lie on one side of 0. The slope is that of a
    polynomial (Liu et al. 2018, Bi-Real Net, eq. 7). The scale is the mean magnitude that was seen: what follows takes
    it out again, or learns it.
    """

    scale: Tensor

    def __init__(self, seen: Histogram, values_per_row: int) -> None:
        super().__init__()
        share = seen.counts / max(int(seen.counts.sum()), 1)
        middle = 0.0 if seen.low < 0 < seen.high else float(share @ seen.centers)
        magnitude = float(share @ abs(seen.centers - middle))
        self.middle = nn.Parameter(torch.tensor(middle))
        self.register_buffer("scale", torch.tensor(max(magnitude, SMALLEST_SCALE)))
        self.gradient_scale = step_gradient_scale(values_per_row, 1)

    @property
    def is_binary(self) -> bool:
        """Always."""
        return True

    def forward(self, values: Tensor) -> Tensor:
        """Signs times the scale."""
        slow = self.middle * self.gradient_scale
        middle = slow + (self.middle - slow).detach()
        # Below a middle above 0 lies all that a rectifier makes 0, and 0 itself.
        given = before_rectifier(values) if self.middle > 0 else values
        return binary_sign((given - middle) / self.scale, "polynomial") * self.scale

    def fixed(self) -> FixedInputs:
        """What the inputs are to go through from now on."""
        return FixedInputs(self.scale, 0, -128, 127, signs_around=self.middle)


def fix_(model: nn.Module) -> None:
    """The training is over, eval mode begins: quantizers that learned become fixed, weights what they were seen as.

    These are new parameters: what else read an old one, such as a table of embeddings, saw it as it was.
    """
    inputs_of: dict[nn.Module, FixedInputs] = {}
    weights_of: dict[nn.Module, tuple[nn.Parameter, FixedWeights]] = {}
    for _, layer in quantized_layers(model):
        inputs, weights = layer.input_quantizer, layer.weight_quantizer
        if isinstance(inputs, InputQuantizer):
            if inputs not in inputs_of:
                inputs_of[inputs] = inputs.fixed()
            layer.input_quantizer = inputs_of[inputs]
        if isinstance(weights, WeightQuantizer):
            if weights not in weights_of:
                seen, fixed = weights.fixed(layer.weight)
                weights_of[weights] = nn.Parameter(seen, layer.weight.requires_grad), fixed
            layer.weight, layer.weight_quantizer = weights_of[weights]
    for module in quantized_outputs(model):
        if isinstance(module.output_quantizer, InputQuantizer):
            module.output_quantizer = module.output_quantizer.fixed()
    round_biases_(model)
    model.eval()


class HeldSteps(Constraint):
    """Steps stay positive, and change little by little; beside what else holds.

    With `progressive` the bits go down one by one from 8 to those wanted, in the first half of the training.
    """

    def __init__(self, model: nn.Module, held: Constraint, *, progressive: bool) -> None:
        self.held, self.progressive = held, progressive
        self._layers = [layer for _, layer in quantized_layers(model)]
        holders = (*self._layers, *quantized_outputs(model))
        quantizers = dict.fromkeys(each for holder in holders for each in holder.children())
        learning = [each for each in quantizers if isinstance(each, InputQuantizer | WeightQuantizer)]
        self._inputs = [each for each in learning if isinstance(each, InputQuantizer)]
        self._steps = [step for each in learning for step in each.steps]
        self._before = [step.detach().clone() for step in self._steps]

    @contextmanager
    def shown_(self, share: float) -> Iterator[None]:
        """The weights and inputs with as many bits as it is time for, and rectifiers noted if those are two levels."""
        if self.progressive:
            self._lower_(min(1.0, 2 * share))
        noted = NotedRectifiers() if any(each.is_binary for each in self._inputs) else nullcontext()
        with self.held.shown_(share), noted:
            yield

    @torch.no_grad()
    def settle_(self) -> None:
        """Steps near those from before."""
        self.held.settle_()
        for step, before in zip(self._steps, self._before, strict=True):
            before.copy_(step.clamp_(before / LARGEST_CHANGE, before * LARGEST_CHANGE))

    def finish_(self) -> None:
        """All bits gone that are to go, also where the training was cut short."""
        if self.progressive:
            self._lower_(1.0)
        self.held.finish_()

    @torch.no_grad()
    def _lower_(self, progress: float) -> None:
        for layer in self._layers:
            inputs, weights = layer.input_quantizer, layer.weight_quantizer
            if isinstance(weights, LearnedWeights):
                weights.lower_(progress, layer.weight)
            if isinstance(inputs, LearnedInputs):
                inputs.lower_(progress)
        for step, before in zip(self._steps, self._before, strict=True):
            before.copy_(step)


def _bits_now(progress: float, wanted: int) -> int:
    """From 8 bits to those wanted in equal times."""
    return max(wanted, 8 - int(progress * (9 - wanted)))
