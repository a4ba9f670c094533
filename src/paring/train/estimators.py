"""Ways to train few levels that go by the names of their papers, beside learned scales (`paring.train.quantizers`).

Each ends in integers times a scale for each output channel, as those do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from paring.graph.fake_quantized import FixedInputs, FixedWeights
from paring.ops.binarization import ternary_weights, trained_ternary
from paring.ops.dorefa import dorefa_activations, dorefa_weights
from paring.ops.fake_quantization import straight_through
from paring.ops.formats import Format
from paring.ops.initial_steps import step_gradient_scale
from paring.ops.quantization import SMALLEST_SCALE
from paring.ops.ranges import Histogram, chosen_range
from paring.train.quantizers import InputQuantizer, LearnedInputs, LearnedWeights, Signs, WeightQuantizer

Estimator = Literal["learned", "twn", "ttq", "dorefa"]
InputEstimator = Literal["learned", "dorefa", "xnor"]

WEIGHTS: Mapping[Estimator, tuple[str, ...]] = MappingProxyType(
    {
        "twn": ("ternary",),
        "ttq": ("ternary",),
        "dorefa": ("odd2", "odd3", "odd4", "odd5", "odd6"),
    }
)
"""The formats of weights that a way is for; learned scales are for all."""

INPUTS: Mapping[InputEstimator, tuple[str, ...]] = MappingProxyType(
    {"dorefa": tuple(f"uint{bits}" for bits in range(1, 9)), "xnor": ("binary",)}
)
"""The formats of inputs that a way is for."""

UNITS = 64
"""Of two learned scales the larger is so many units: two products with uint8 inputs still add up in 16 bits."""


def weight_quantizer(estimator: Estimator, weight: Tensor, form: Format) -> WeightQuantizer:
    """What a weight is trained through for a format: the way of that name where it is for it, else learned scales."""
    if form.name not in WEIGHTS.get(estimator, ()):
        return LearnedWeights(weight, form)
    if estimator == "dorefa":
        return TanhWeights(weight, form)
    return TwoScales(weight) if estimator == "ttq" else ThresholdWeights()


def input_quantizer(estimator: InputEstimator, form: Format | None, seen: Histogram, values_per_row: int) -> nn.Module:
    """What a layer's input is trained through, by the values seen; with "xnor" the layer scales its outputs besides."""
    if form is None:
        return nn.Identity()
    if form.name == "binary":
        return Signs(seen, values_per_row)
    found = chosen_range(seen, "mse", levels=len(form.levels))
    return UnitInputs(form, found.high) if estimator == "dorefa" else LearnedInputs(form, found, values_per_row)


class ThresholdWeights(WeightQuantizer):
    """0 and plus or minus a size, which follow from the weights of each output channel (Li et al. 2016, TWN)."""

    def forward(self, weight: Tensor) -> Tensor:
        """Quantized weights, with gradients for them."""
        return ternary_weights(weight)

    @torch.no_grad()
    def fixed(self, weight: Tensor) -> tuple[Tensor, FixedWeights]:
        """What the weight was seen as, and what that is to go through from now on."""
        seen = self(weight)
        return seen, FixedWeights(seen.abs().flatten(1).amax(1).clamp_min(SMALLEST_SCALE))


class TwoScales(WeightQuantizer):
    """One learned scale for all that is above 0, another one for all below (Zhu et al. 2017, TTQ).

    Both are rounded, straight through, to a `UNITS`th of the larger one, so that the weights are integers: the smaller
    one is off by less than a hundredth of it. They learn as slowly as other steps (Esser et al. 2020, section 2.2).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        given = weight.detach().float()
        self.gradient_scale = step_gradient_scale(given.numel(), 1)
        ones = torch.ones((), device=given.device)
        levels = trained_ternary(given, ones, ones)
        self.positive, self.negative = (nn.Parameter(_mean_size(given, levels == sign)) for sign in (1, -1))

    @property
    def steps(self) -> tuple[nn.Parameter, ...]:
        """Both scales."""
        return self.positive, self.negative

    @property
    def unit(self) -> Tensor:
        """What both are multiples of."""
        return torch.maximum(self.positive.detach(), self.negative.detach()).clamp_min(SMALLEST_SCALE) / UNITS

    def forward(self, weight: Tensor) -> Tensor:
        """Quantized weights, with gradients for them and for both scales."""
        slow = (step * self.gradient_scale for step in self.steps)
        positive, negative = (
            straight_through(each, (step.detach() / self.unit).round() * self.unit)
            for each, step in zip(slow, self.steps, strict=True)
        )
        return trained_ternary(weight, positive, negative)

    @torch.no_grad()
    def fixed(self, weight: Tensor) -> tuple[Tensor, FixedWeights]:
        """What the weight was seen as, and what that is to go through from now on."""
        return self(weight), FixedWeights(self.unit.expand(len(weight)))


class TanhWeights(WeightQuantizer):
    """Odd integers by the tanh of the weights, the largest of a layer at the end (Zhou et al. 2016, DoReFa-Net, eq. 9).

    There they lie in -1..1 and a batch norm follows. Here each output channel learns a scale, from the one that brings
    them nearest to the weights that they stand for.
    """

    def __init__(self, weight: Tensor, form: Format) -> None:
        super().__init__()
        self.bits, self.largest = form.bits, form.levels[-1]
        given = weight.detach().float().flatten(1)
        levels = dorefa_weights(given, self.bits)
        self.scale = nn.Parameter(((given * levels).sum(1) / levels.square().sum(1)).clamp_min(SMALLEST_SCALE))
        self.gradient_scale = step_gradient_scale(given[0].numel(), 1)

    @property
    def steps(self) -> tuple[nn.Parameter, ...]:
        """One scale for each output channel."""
        return (self.scale,)

    def forward(self, weight: Tensor) -> Tensor:
        """Quantized weights, with gradients for them and for the scales."""
        scale = straight_through(self.scale * self.gradient_scale, self.scale.detach())
        exact = dorefa_weights(weight, self.bits) * self.largest
        whole = straight_through(exact, exact.detach().round())
        return (whole * (scale / self.largest).reshape(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)

    @torch.no_grad()
    def fixed(self, weight: Tensor) -> tuple[Tensor, FixedWeights]:
        """What the weight was seen as, and what that is to go through from now on."""
        return self(weight), FixedWeights((self.scale / self.largest).clamp_min(SMALLEST_SCALE))


class UnitInputs(InputQuantizer):
    """Equally distant levels in 0..1 that learn nothing (Zhou et al. 2016, DoReFa-Net, eq. 11).

    There activations are made to lie in there. Those of a network that was trained otherwise are divided by a number
    that leads them there, and multiplied by it again.
    """

    reach: Tensor

    def __init__(self, form: Format, reach: float) -> None:
        super().__init__()
        self.bits, self.high = form.bits, int(form.levels[-1])
        self.register_buffer("reach", torch.tensor(reach if reach > self.high * SMALLEST_SCALE else 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Quantized values, with gradients for them."""
        return dorefa_activations(values / self.reach, self.bits) * self.reach

    @torch.no_grad()
    def fixed(self) -> FixedInputs:
        """What the inputs are to go through from now on."""
        return FixedInputs(self.reach / self.high, 0, 0, self.high)


def _mean_size(weight: Tensor, chosen: Tensor) -> Tensor:
    """() mean|w| of those chosen, of all where there are none."""
    sizes = weight[chosen].abs() if bool(chosen.any()) else weight.abs()
    return sizes.mean().clamp_min(SMALLEST_SCALE)
