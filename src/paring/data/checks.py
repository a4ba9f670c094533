"""What can be known to be wrong with a task before any time is spent on it; each is one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paring.data.batches import model_call, sample, tensors_of
from paring.errors import TaskError
from paring.ops.scores import accuracy
from paring.types import Array, CorpusMetric, Task, check_finite


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


def user_scores(task: Task, outputs: Any, targets: Any, rows: int) -> Array:
    """The task's metric on one batch in the user's structures: float64, (rows,), or (rows, k) for a CorpusMetric.

    Raises TaskError where the metric raises or breaks its contract.
    """
    check_labels(task, outputs, targets)
    try:
        with torch.inference_mode():
            found = task.metric(outputs, targets)
    except Exception as error:
        raise TaskError(f"the metric raised {type(error).__name__} on {rows} rows: {error}") from error
    corpus = isinstance(task.metric, CorpusMetric)
    wanted = f"({rows}, k)" if corpus else f"({rows},)"
    if not isinstance(found, Tensor):
        raise TaskError(f"the metric returned a {type(found).__name__}: return a tensor of shape {wanted}.")
    if found.ndim != (2 if corpus else 1) or len(found) != rows:
        raise TaskError(
            f"the metric returned shape {tuple(found.shape)} for {rows} rows: return one score a row, shape {wanted}."
        )
    scores: Array = found.detach().cpu().to(torch.float64).numpy()
    check_finite({"score": scores}, "the metric's")
    low, high = task.score_range
    if not corpus and (scores.min() < low or scores.max() > high):
        raise TaskError(
            f"the metric gave scores from {scores.min():g} to {scores.max():g}, "
            f"outside score_range={task.score_range}: give the range that the metric can take, "
            "since the certificate rests on it."
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
    inputs, targets = sample(task.evaluate, "evaluate")
    if targets is None:
        raise TaskError("evaluate has no targets: scores need labels.")
    check_model(model, inputs)
    with torch.inference_mode():
        outputs = model_call(model, inputs)
    user_scores(task, outputs, targets, len(tensors_of(inputs)[0]))
