"""Weights and activations of few bits whose levels stay where they are: DoReFa-Net."""

from __future__ import annotations

import torch
from torch import Tensor

from paring.ops.fake_quantization import learned_step, straight_through, usable, wide
from paring.ops.slopes import where_inside


def dorefa_weights(weight: Tensor, bits: int) -> Tensor:
    """2 quantize(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1, in -1..1. Zhou et al. 2016, DoReFa-Net, eq. 9.

    quantize(r) = round((2^k - 1) r) / (2^k - 1) of k `bits`, more than one, has the slope 1 (eq. 5, 6); all else its
    own, also the largest. These are the odd integers -(2^k - 1) .. 2^k - 1 over 2^k - 1. Weights that are all zero take
    what 0 does.
    """
    steps = 2**bits - 1
    bounded = torch.tanh(wide(weight))
    unit = bounded / (2 * usable(bounded.abs().amax())) + 0.5
    taken = straight_through(unit, (unit * steps).round() / steps)
    return (2 * taken - 1).to(weight.dtype)


def dorefa_activations(values: Tensor, bits: int) -> Tensor:
    """quantize(clip(values, 0, 1)), with slope 1 in 0..1 and 0 outside. Zhou et al. 2016, DoReFa-Net, eq. 11."""
    steps = 2**bits - 1
    scale = torch.tensor(1 / steps, dtype=wide(values).dtype, device=values.device)
    return learned_step(values, scale, 0, steps, slope=where_inside)
