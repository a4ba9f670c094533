"""Train mode, but for what the user froze."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def train_mode_(model: nn.Module) -> None:
    """Train mode for all modules but frozen BatchNorm: those whose own parameters all take no gradient.

    A user who froze them keeps their running statistics too: with small batches, or rows unlike those that the network
    was trained on, statistics that drift undo what the frozen weights stand for.
    """
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False)) if isinstance(module, _BatchNorm) else []
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
