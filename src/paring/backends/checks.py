"""What every session checks before it runs, and how the words of a runtime become one sentence of ours."""

from __future__ import annotations

import re

import numpy as np

from paring.errors import BackendError, InputError
from paring.types import Arrays, TensorSpec

MAXIMUM_MESSAGE = 300
_NOISE = re.compile(r"^(Exception from |Check '.*' failed at |Loading input model$)")
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def check_specs(specs: tuple[TensorSpec, ...], where: str) -> None:
    """Raise BackendError where an input has no batch axis."""
    for spec in specs:
        if not spec.shape:
            raise BackendError(f"{where} takes the scalar input {spec.name!r}: every input needs the batch as axis 0.")


def checked(specs: tuple[TensorSpec, ...], inputs: Arrays) -> Arrays:
    """The inputs in the network's order, contiguous. Raises InputError that names the input and what it should be."""
    names = [spec.name for spec in specs]
    for name in inputs:
        if name not in names:
            raise InputError(f"the network has no input {name!r}: it takes {', '.join(names)}.")
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(f"the input {spec.name!r} is missing: the network takes {', '.join(names)}.")
        _check_array(spec, inputs[spec.name])
    rows = {name: len(inputs[name]) for name in names}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InputError(f"the inputs differ in their number of rows: {told}.")
    return {name: np.ascontiguousarray(inputs[name]) for name in names}


def _check_array(spec: TensorSpec, array: object) -> None:
    """Dtype, rank and fixed sizes of one input."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"the input {spec.name!r} is a {type(array).__name__}: give a numpy array.")
    if str(array.dtype) != spec.dtype:
        raise InputError(
            f"the input {spec.name!r} is {array.dtype}, and the network takes {spec.dtype}: convert it with astype."
        )
    sizes = ", ".join(
        "batch" if axis == 0 and size is None else str(size or "any") for axis, size in enumerate(spec.shape)
    )
    fits = array.ndim == len(spec.shape) and all(
        size in (None, given) for size, given in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"the input {spec.name!r} has shape {array.shape}, and the network takes ({sizes}).")
    if not len(array):
        raise InputError(f"the input {spec.name!r} has 0 rows: give at least one.")


def in_one_sentence(error: BaseException) -> str:
    """The first line of a runtime's error that says something, without its own prefixes and without a full stop."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = next((line for line in lines if line and not _NOISE.match(line)), None)
    text = _PREFIX.sub("", telling or next((line for line in lines if line), type(error).__name__))
    return (text if len(text) <= MAXIMUM_MESSAGE else text[:MAXIMUM_MESSAGE] + "...").rstrip(". ")
