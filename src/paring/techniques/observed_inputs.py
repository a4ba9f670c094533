"""What the layers of a network read on the calibration rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paring.data.batches import model_call
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.fake_quantized import read_by
from paring.ops.ranges import Histogram
from paring.train.precision import device_of, placed


def observed_inputs(model: nn.Module, layers: Sequence[str], job: Job) -> dict[str, tuple[Histogram, int]]:
    """For each layer a histogram of the values that it reads, and how many of them one row has.

    Raises TechniqueError that names a layer which reads NaN or infinity.
    """
    seen = {name: Histogram() for name in layers}
    sizes = dict.fromkeys(layers, 1)

    def watch(name: str) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            values = read_by(given, named).detach()
            sizes[name] = max(1, values[0].numel()) if values.ndim else 1
            seen[name].add(values.float().cpu().numpy())
            if not seen[name].finite:
                raise TechniqueError(
                    f"layer {name!r} reads NaN or infinity on the calibration rows: check the network."
                )

        return note

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True) for name in layers]
    try:
        with torch.no_grad():
            for inputs, _ in job.calibrate:
                job.check_time()
                model_call(model, placed(inputs, device_of(model), channels_last=False))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (seen[name], sizes[name]) for name in layers}
