"""Data that lies in memory as a whole, which can be known by all its rows and not only by the first ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

WHOLE_BYTES = 2**31
"""Data up to this size is read as a whole, which takes about two seconds; of more, every second row, or third..."""

PLAIN = (bool, int, float, str, bytes, type(None))


def held(data: Any) -> Any:
    """What data in memory is made of, for a fingerprint; None for what is read, made or drawn as it is asked for.

    That is: lists and tuples of tensors and numbers, TensorDatasets, their Subsets, and DataLoaders of these. Classes
    of the user's own may change what they hold as they are read, so nothing is known of them. Of data beyond
    WHOLE_BYTES some rows stand for all.
    """
    found = _source(data)
    if found is None or not all(map(_is_plain, _leaves(found))):
        return None
    total = sum(value.nbytes for value in _leaves(found) if isinstance(value, Tensor | np.ndarray))
    step = max(1, math.ceil(total / WHOLE_BYTES))
    return found if step == 1 else [_thinned(value, step) for value in _leaves(found)]


def _source(data: Any) -> Any:
    """The values behind data of the kinds that are known; None for others. A subclass may be anything."""
    if type(data) in (list, tuple):
        return data
    if type(data) is TensorDataset:
        return data.tensors
    if type(data) is Subset:
        whole = _source(data.dataset)
        return None if whole is None else (list(data.indices), whole)
    if type(data) is DataLoader:
        rows = _source(data.dataset)
        return None if rows is None else (type(data.sampler).__name__, data.batch_size, data.drop_last, rows)
    return None


def _leaves(values: Any) -> Iterator[Any]:
    """What is no list, tuple or dict, in order."""
    if isinstance(values, dict):
        values = [*values.items()]
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _is_plain(value: Any) -> bool:
    """Whether a value is known by its bytes."""
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value.layout is torch.strided if isinstance(value, Tensor) else isinstance(value, PLAIN)


def _thinned(value: Any, step: int) -> Any:
    """Every so many rows of a tensor or array, with its shape; anything else as it is."""
    if not isinstance(value, Tensor | np.ndarray):
        return value
    return tuple(value.shape), value[::step] if value.ndim else value
