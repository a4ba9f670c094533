"""What can be known to be wrong with a task before any time is spent on it; each is one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paring.data.batches import model_call, sample, tensors_of
from paring.errors import TaskError
from paring.ops.scores import accuracy
from paring.types import CorpusMetric, Task


def check_model(model: nn.Module, inputs: Any) -> None:
    """The network is in eval mode, answers, answers the same twice, and its answers are finite."""
    training = [name or type(module).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise TaskError(f"the network is in train mode (first module: {training[0]!r}): call .eval() on it.")
    with torch.inference_mode():
        try:
            first, second = (tensors_of(model_call(model, inputs)) for _ in range(2))
        except Exception as error:
            raise TaskError(f"the network can't run on the first batch of evaluate: {error}") from error
    for one, other in zip(first, second, strict=True):
        if torch.is_floating_point(one) and not torch.isfinite(one).all():
            raise TaskError("the network returns NaN or infinity on the first batch of evaluate.")
        if not torch.equal(one, other):
            raise TaskError("the network returns random output: two runs on one batch differ. Remove the randomness.")


def check_scores(task: Task, outputs: Any, targets: Any, rows: int) -> Tensor:
    """The scores of one batch, or TaskError where the metric breaks its contract.

    Returns shape (rows,), or (rows, k) for a CorpusMetric.
    """
    check_labels(task, outputs, targets)
    try:
        scores = task.metric(outputs, targets)
    except Exception as error:
        raise TaskError(f"the metric failed on {rows} rows: {type(error).__name__}: {error}") from error
    if not isinstance(scores, Tensor):
        raise TaskError(f"the metric returns {type(scores).__name__}: return a tensor of shape ({rows},).")
    wanted = 2 if isinstance(task.metric, CorpusMetric) else 1
    if scores.ndim != wanted or len(scores) != rows:
        shape = f"({rows}, k)" if wanted == 2 else f"({rows},)"
        raise TaskError(f"the metric returns shape {tuple(scores.shape)} for {rows} rows: return shape {shape}.")
    if not torch.isfinite(scores.double()).all():
        raise TaskError("the metric returns NaN or infinity.")
    low, high = task.score_range
    if wanted == 1 and not bool(((scores >= low) & (scores <= high)).all()):
        worst = float(scores.max() if scores.max() > high else scores.min())
        raise TaskError(
            f"the metric returns {worst:g}, outside score_range=({low:g}, {high:g}): set the task's score_range."
        )
    return scores


def check_labels(task: Task, outputs: Any, targets: Any) -> None:
    """Class labels lie within the classes, where the task uses the built-in metric or loss."""
    classes_expected = task.metric is accuracy
    if not (classes_expected and isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return
    if targets.shape != outputs.shape[:-1]:
        raise TaskError(
            f"targets have shape {tuple(targets.shape)} and outputs {tuple(outputs.shape)}: "
            "accuracy needs one label for each row; pass a `metric` of your own for anything else."
        )
    classes = outputs.shape[-1]
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise TaskError(f"label {wrong.flatten()[0].item()} is out of range: the network has {classes} classes.")


def check_task(task: Task, model: nn.Module) -> None:
    """All checks that the first batch of evaluate allows."""
    inputs, targets = sample(task.evaluate)
    if targets is None:
        raise TaskError("evaluate has no targets: scores need labels.")
    check_model(model, inputs)
    with torch.inference_mode():
        outputs = model_call(model, inputs)
    check_scores(task, outputs, targets, len(tensors_of(inputs)[0]))
