"""The optimizer: which parameters decay, and how the learning rate is set."""

from __future__ import annotations

from typing import Any

from torch import nn, optim

from paring.errors import TechniqueError
from paring.train.settings import Training


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and kernels decay, biases and normalisation (1-D) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TechniqueError("the network has no trainable parameter: nothing can be fine-tuned.")
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, training: Training) -> optim.Optimizer:
    """SGD with Nesterov momentum."""
    groups = parameter_groups(model, training.weight_decay)
    return optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=True)


def set_learning_rate_(optimizer: optim.Optimizer, learning_rate: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
