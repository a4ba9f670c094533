"""Gradients of single samples: what the loss feels of each weight."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from paring.data.batches import in_pieces, model_call, spread_rows
from paring.data.job import Job
from paring.data.seeding import seeded
from paring.errors import ParingError, TechniqueError, in_words
from paring.types import Batch, Task

GRADIENT_ROWS = 256
"""Samples whose gradients are taken one by one."""

INSTEAD = "choose a criterion of weights or activations, for example magnitude_l2 or wanda."


def labelled_rows(task: Task, rows: int) -> tuple[Batch, ...]:
    """Rows from all over the training data. TechniqueError where there is none, or it has no labels."""
    if task.train is None:
        raise TechniqueError(f"a criterion of gradients needs training data: give the task `train`, or {INSTEAD}")
    batches = spread_rows(task.train, rows, "train")
    if any(targets is None for _, targets in batches):
        raise TechniqueError(f"a criterion of gradients needs labels, and `train` has none: {INSTEAD}")
    return batches


def sample_gradients(model: nn.Module, job: Job) -> dict[str, tuple[Tensor, Tensor]]:
    """The mean over samples of dL/dw and the sum of (dL/dw)^2, by parameter, each of its shape.

    Of GRADIENT_ROWS rows from all over the task's training data, one at a time; of the first ones where it is no
    sequence of batches. TechniqueError where they have no labels.
    """
    with seeded(job.seed):
        batches = labelled_rows(job.task, GRADIENT_ROWS)
    network = copy.deepcopy(model).eval().requires_grad_(True)
    parameters = dict(network.named_parameters())
    sums = {name: (torch.zeros_like(value.data), torch.zeros_like(value.data)) for name, value in parameters.items()}
    rows = 0
    for inputs, targets in batches:
        for piece, target in zip(in_pieces(inputs, 1), in_pieces(targets, 1), strict=True):
            job.check_time()
            gradients = _gradient(network, job, piece, target, list(parameters.values()))
            for (mean, squared), gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    mean += gradient
                    squared += gradient.square()
            rows += 1
    return {name: (mean / max(rows, 1), squared) for name, (mean, squared) in sums.items()}


def _gradient(
    network: nn.Module, job: Job, inputs: Any, targets: Any, parameters: list[nn.Parameter]
) -> tuple[Tensor | None, ...]:
    try:
        loss = job.task.loss(model_call(network, inputs), targets)
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    except ParingError:
        raise
    except Exception as error:  # The loss is anybody's code.
        raise TechniqueError(f"the gradient of the loss of one row can't be taken: {in_words(error)}.") from error
