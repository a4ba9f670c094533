"""The optimizer: which parameters decay, and how the learning rate is set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn, optim

from paring.errors import TechniqueError, in_words
from paring.train.settings import Groups, Optimizer, Training

MAKERS: Mapping[Optimizer, Callable[[Groups, float], optim.Optimizer]] = MappingProxyType(
    {
        "sgd": lambda groups, momentum: optim.SGD(groups),
        "momentum": lambda groups, momentum: optim.SGD(groups, momentum=momentum),
        "nesterov": lambda groups, momentum: optim.SGD(groups, momentum=momentum, nesterov=True),
        "rmsprop": lambda groups, momentum: optim.RMSprop(groups),
        "adam": lambda groups, momentum: optim.Adam(groups, betas=(momentum, 0.999)),
        "adamw": lambda groups, momentum: optim.AdamW(groups, betas=(momentum, 0.999)),
    }
)
"""By name, from groups of parameters and the momentum. The learning rate is set before each step."""


def parameter_groups(model: nn.Module, weight_decay: float) -> Groups:
    """Trainable parameters in two groups: matrices and kernels decay, biases and normalisation (1-D) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TechniqueError("the network has no trainable parameter: nothing can be fine-tuned.")
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, training: Training) -> optim.Optimizer:
    """The optimizer that is named, or what the function makes. Raises TechniqueError where it makes none."""
    groups, wanted = parameter_groups(model, training.weight_decay), training.optimizer
    if isinstance(wanted, str):
        return MAKERS[wanted](groups, training.momentum)
    told = f"optimizer={getattr(wanted, '__name__', type(wanted).__name__)}"
    try:
        made: Any = wanted(groups)
    except Exception as error:  # Anybody's code.
        raise TechniqueError(f"{told} fails on groups of parameters: {in_words(error)}.") from error
    if not isinstance(made, optim.Optimizer):
        raise TechniqueError(f"{told} makes a {type(made).__name__}: return a torch.optim.Optimizer of the groups.")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TechniqueError(f"{told} wants the loss several times a step: choose one whose step() needs no closure.")
    return made


def set_learning_rate_(optimizer: optim.Optimizer, learning_rate: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
