"""What can be known to be wrong with a task before any time is spent on it; each is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paring.data.batches import model_call, rows_in, sample, tensors_of
from paring.data.rows import Rows
from paring.errors import DataError, TaskError, in_words
from paring.ops.distillation import holds_classes
from paring.ops.scores import RANGE_TOLERANCE, accuracy, corpus_score, cross_entropy
from paring.types import Array, Batch, CorpusMetric, Signature, Task, check_finite

IGNORED_LABEL = -100
"""PyTorch's own mark for positions that have no label."""

LOSS_REMEDY = "give the task a `loss` that reads these, or let the targets be None, so that the original alone teaches."


def check_model(model: nn.Module, inputs: Any) -> None:
    """The network is in eval mode, answers, answers the same twice, and its answers are finite."""
    training = [name or type(module).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise TaskError(f"the network is in train mode (first module: {training[0]!r}): call .eval() on it.")
    first, second = (tensors_of(_answer(model, inputs, "evaluate")) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        if torch.is_floating_point(one) and not torch.isfinite(one).all():
            raise TaskError(f"the network returns NaN or infinity on the first batch of evaluate{_broken(model)}.")
        if not torch.equal(one, other):
            raise TaskError("the network returns random output: two runs on one batch differ. Remove the randomness.")


def _broken(model: nn.Module) -> str:
    """Which parameter is no number, for the end of a sentence; empty where all are. Infinite buffers may be masks."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f": its parameter {name!r} holds NaN or infinity, so check its training"
    for name, buffer in model.named_buffers():
        if torch.isnan(buffer).any():
            return f": its buffer {name!r} holds NaN, so check its training"
    return ""


def user_scores(task: Task, outputs: Any, targets: Any, rows: int) -> Array:
    """The task's metric on one batch in the user's structures: float64, (rows,), or (rows, k) for a CorpusMetric.

    Raises TaskError where the metric raises or breaks its contract.
    """
    check_labels(task, outputs, targets)
    try:
        with torch.inference_mode():
            found = task.metric(outputs, targets)
    except Exception as error:
        raise TaskError(f"the metric failed on {rows} rows with {in_words(error)}.") from error
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
    if corpus:
        return scores
    check_range(task, float(scores.min()), float(scores.max()))
    return np.clip(scores, *task.score_range)


def check_loss(task: Task, model: nn.Module, labelled: Batch, name: str) -> None:
    """Raise TaskError where the loss can't read what the network returns for labelled rows, or breaks its contract.

    Better known beforehand than when a training begins, which may be an hour later. `name` is what the rows are called.
    """
    inputs, targets = labelled
    with torch.enable_grad():  # A loss may ask for the gradient of what it is given.
        outputs = model_call(model, inputs)
        if task.loss is cross_entropy:
            _check_indices(outputs, targets, name)
        try:
            found = task.loss(outputs, targets)
        except Exception as error:
            kind = type(outputs).__name__
            raise TaskError(
                f"the loss failed with {in_words(error)}, on targets of {name} and the network's {kind}: {LOSS_REMEDY}"
            ) from error
    if not isinstance(found, Tensor) or found.ndim:
        kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise TaskError(f"the loss returned {kind}: return a tensor of shape (), such as the mean over the rows.")


def _check_indices(outputs: Any, targets: Any, name: str) -> None:
    """Targets that cross_entropy would cut to whole numbers, or that are beyond the classes."""
    if isinstance(targets, Tensor) and bool((targets != targets.long()).any()):
        raise TaskError(
            f"targets of {name} hold fractions, and the default loss, cross_entropy, takes indices of classes: "
            f"{LOSS_REMEDY}"
        )
    if holds_classes(outputs, targets):
        check_train_labels(targets, outputs.shape[-1], name)


def check_train_labels(targets: Tensor, classes: int, name: str = "train") -> None:
    """Raise DataError for a label, of any shape, that is none of so many classes and no IGNORED_LABEL."""
    wrong = targets[((targets < 0) & (targets != IGNORED_LABEL)) | (targets >= classes)]
    if len(wrong):
        label = int(wrong.flatten()[0])
        raise DataError(f"{name} holds the label {label}, but the network has {classes} classes (0 to {classes - 1}).")


def check_range(task: Task, lowest: float, highest: float) -> None:
    """Raise TaskError for scores outside the task's range, by more than means in float32 are rounded."""
    low, high = task.score_range
    tolerance = RANGE_TOLERANCE * (high - low)
    if lowest < low - tolerance or highest > high + tolerance:
        raise TaskError(
            f"the metric gave scores from {lowest:g} to {highest:g}, "
            f"outside score_range={task.score_range}: give the range that the metric can take, "
            "since the certificate rests on it."
        )


def check_labels(task: Task, outputs: Any, targets: Any) -> None:
    """Class labels lie within the classes, where the task uses the built-in metric."""
    if task.metric is not accuracy:
        return
    if not isinstance(outputs, Tensor):
        raise TaskError(
            f"accuracy needs one tensor of class scores, but the network returns a {type(outputs).__name__}: "
            "pass a `metric` of your own that reads it."
        )
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape[:-1]:
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else f"of a {type(targets).__name__}"
        raise TaskError(
            f"targets have shape {shape} and outputs {tuple(outputs.shape)}: "
            "accuracy needs one label for each row; pass a `metric` of your own for anything else."
        )
    check_classes(targets, outputs.shape[-1])


def check_classes(targets: Any, classes: int) -> None:
    """Labels, a tensor or array of any shape, are indices of so many classes."""
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise DataError(f"label {wrong.flatten()[0].item()} is out of range: the network has {classes} classes.")


def check_all_labels(task: Task, signature: Signature, *splits: Rows) -> None:
    """The labels of all rows, where the task uses the built-in metric: a wrong one is better known before a search."""
    classes = signature.outputs[0].shape[-1]
    if task.metric is not accuracy or signature.output_structure != "tensor" or classes is None:
        return
    for rows in splits:
        if rows.target_structure == "tensor":
            check_classes(rows.targets, classes)


def check_task(task: Task, model: nn.Module, *, trains: bool = True) -> None:
    """All checks that the first batches allow; the loss counts where a technique that trains takes part."""
    inputs, targets = sample(task.evaluate, "evaluate")
    if targets is None:
        raise DataError("evaluate has no targets: scores need labels.")
    check_model(model, inputs)
    scores = user_scores(task, _answer(model, inputs, "evaluate"), targets, rows_in(inputs))
    if isinstance(task.metric, CorpusMetric):
        score = corpus_score(task.metric.reduce, scores)
        check_range(task, score, score)
    for name, batches in (("train", task.train), ("calibrate", task.calibrate)):
        if batches is not None:
            inputs, targets = sample(batches, name)
            _answer(model, inputs, name)
            # Of the labels that lie beside calibration rows nobody may have meant that they train.
            if trains and name == "train" and targets is not None:
                check_loss(task, model, (inputs, targets), name)


def _answer(model: nn.Module, inputs: Any, name: str) -> Any:
    with torch.inference_mode():
        try:
            return model_call(model, inputs)
        except Exception as error:
            raise TaskError(f"the network can't run on the first batch of {name}: {in_words(error)}.") from error


def check_graph_inputs(path: Path, signature: Signature, inputs: Any) -> None:
    """A batch has the inputs that a graph asks for, in their dtypes and shapes."""
    given = tensors_of(inputs)
    if isinstance(inputs, dict):
        missing = [name for name in signature.input_names if name not in inputs]
        if missing:
            raise DataError(f"evaluate lacks the input {missing[0]!r} of {path}: it gives {', '.join(inputs)}.")
        given = tuple(inputs[name] for name in signature.input_names)
    if len(given) != len(signature.inputs):
        raise DataError(
            f"evaluate gives {len(given)} inputs, but {path} has {len(signature.inputs)}: "
            f"{', '.join(signature.input_names)}."
        )
    for spec, tensor in zip(signature.inputs, given, strict=True):
        found = str(tensor.dtype).removeprefix("torch.")
        fits = len(spec.shape) == tensor.ndim and all(
            size in (None, own) for size, own in zip(spec.shape, tensor.shape, strict=True)
        )
        if found != spec.dtype or not fits:
            raise DataError(
                f"evaluate gives {found} of shape {tuple(tensor.shape)} for the input {spec.name!r}, but {path} "
                f"asks for {spec.dtype} of shape ({', '.join(str(size or 'rows') for size in spec.shape)})."
            )
