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

PREFIX = "weights of "


def save_weights(model: nn.Module, file: Path) -> None:
    """Write all parameters and buffers as bytes. Raises OutputError where the disk refuses."""
    content = io.BytesIO()
    tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(model).items()}
    # A name of its own before each: numpy has arguments, such as `file`, that a parameter may be called like.
    raw: dict[str, Any] = {PREFIX + name: t.flatten().view(torch.uint8).numpy() for name, t in tensors.items()}
    np.savez(content, **raw)
    with replacing_file(file) as stream:
        stream.write(content.getbuffer())


def with_weights(model: nn.Module, file: Path) -> nn.Module | None:
    """A copy in eval mode with the weights of a file; None where there is none, or it belongs to another structure."""
    if not file.is_file():
        return None
    result = copy.deepcopy(model).eval()
    wanted = _tensors(result)
    with np.load(file, allow_pickle=False) as arrays:
        found = {name.removeprefix(PREFIX): torch.from_numpy(arrays[name]) for name in arrays.files}
    if {name: value.nbytes for name, value in wanted.items()} != {name: raw.nbytes for name, raw in found.items()}:
        return None
    loaded = {name: found[name].view(value.dtype).reshape(value.shape) for name, value in wanted.items()}
    result.load_state_dict({**result.state_dict(), **loaded})
    return result


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers; what else a module keeps as its extra state is no part of its training."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
