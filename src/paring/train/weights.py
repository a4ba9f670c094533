"""Trained weights on disk: a training of half an hour is not done again because the run that did it was killed."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paring.artifact.files import replacing_file
from paring.graph.channels.trace import state

PREFIX = "weights of "


def save_weights(model: nn.Module, file: Path) -> None:
    """Write all parameters and buffers as bytes. Raises OutputError where the disk refuses.

    Buffers that a state dict leaves out too: a pruning takes channels of them. What else a module keeps as its extra
    state is no part of its training.
    """
    content = io.BytesIO()
    # A name of its own before each: numpy has arguments, such as `file`, that a parameter may be called like.
    raw: dict[str, Any] = {PREFIX + name: _bytes(value).numpy() for name, value in state(model).items()}
    np.savez(content, **raw)
    with replacing_file(file) as stream:
        stream.write(content.getbuffer())


def with_weights(model: nn.Module, file: Path) -> nn.Module | None:
    """A copy in eval mode with the weights of a file; None where there is none, or it belongs to another structure."""
    if not file.is_file():
        return None
    result = copy.deepcopy(model).eval()
    wanted = state(result)
    with np.load(file, allow_pickle=False) as arrays:
        found = {name.removeprefix(PREFIX): torch.from_numpy(arrays[name]) for name in arrays.files}
    if {name: value.nbytes for name, value in wanted.items()} != {name: raw.nbytes for name, raw in found.items()}:
        return None
    for name, value in wanted.items():
        # A buffer that repeats one value in memory can't be written to, and never was.
        if not torch.equal(_bytes(value), found[name]):
            value.detach().copy_(found[name].view(value.dtype).reshape(value.shape))
    return result


def _bytes(tensor: Tensor) -> Tensor:
    """What is to be on disk of it."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
