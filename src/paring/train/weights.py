"""Trained weights on disk: a training of half an hour is not done again because the run that did it was killed."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paring.artifact.files import replacing_file


def save_weights(model: nn.Module, file: Path) -> None:
    """Write all parameters and buffers as bytes. Raises OutputError where the disk refuses."""
    content = io.BytesIO()
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    np.savez(content, **{name: t.flatten().view(torch.uint8).numpy() for name, t in tensors.items()})
    with replacing_file(file) as stream:
        stream.write(content.getbuffer())


def with_weights(model: nn.Module, file: Path) -> nn.Module | None:
    """A copy in eval mode with the weights of a file; None where there is none, or it belongs to another structure."""
    if not file.is_file():
        return None
    result = copy.deepcopy(model).eval()
    wanted = result.state_dict()
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if {name: value.nbytes for name, value in wanted.items()} != {name: raw.nbytes for name, raw in found.items()}:
        return None
    result.load_state_dict({name: found[name].view(value.dtype).reshape(value.shape) for name, value in wanted.items()})
    return result
