"""BatchNorm statistics measured anew after a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paring.data.batches import model_call
from paring.types import Batch


def normalisers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def reestimate_(model: nn.Module, batches: Iterable[Batch], expired: Callable[[], bool]) -> bool:
    """Set the running statistics to the plain average over the batches, in the network as it now is.

    Left as they were, and False returned, where there is no BatchNorm, no batch, or `expired` comes first.
    """
    layers = normalisers(model)
    before = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    done = _run(model, batches, expired) if layers else False
    for layer, state, momentum in zip(layers, before, momenta, strict=True):
        layer.eval()
        layer.momentum = momentum
        if not done:
            layer.load_state_dict(state)
    return done


def _run(model: nn.Module, batches: Iterable[Batch], expired: Callable[[], bool]) -> bool:
    any_batch = False
    for inputs, _ in batches:
        if expired():
            return False
        model_call(model, inputs)
        any_batch = True
    return any_batch
