"""What the layers of a network read, and what modules give, on the calibration rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from paring.data.batches import model_call
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.fake_quantized import read_by
from paring.ops.ranges import Histogram
from paring.train.precision import device_of, placed

Seen: TypeAlias = dict[str, tuple[Histogram, int]]
"""By the name of a module: a histogram of values, and how many of them one row has."""


def observed(
    model: nn.Module, layers: Sequence[str], outputs: Mapping[str, tuple[float, float]], job: Job
) -> tuple[Seen, Seen]:
    """What the layers read, and what the modules that `outputs` names give, clipped to the limits there.

    Raises TechniqueError that names a layer which reads NaN or infinity.
    """
    read, given = ({name: (Histogram(), 1) for name in names} for names in (layers, outputs))

    def watch_input(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            _add(read, name, read_by(args, named))
            if not read[name][0].finite:
                raise TechniqueError(
                    f"layer {name!r} reads NaN or infinity on the calibration rows: check the network."
                )

        return note

    def watch_output(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            _add(given, name, output.clamp(*outputs[name]))

        return note

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(watch_input(name), with_kwargs=True) for name in layers
    ]
    hooks += [model.get_submodule(name).register_forward_hook(watch_output(name)) for name in outputs]
    try:
        with torch.no_grad():
            for inputs, _ in job.calibrate:
                job.check_time()
                model_call(model, placed(inputs, device_of(model), channels_last=False))
    finally:
        for hook in hooks:
            hook.remove()
    return read, given


def _add(seen: Seen, name: str, values: Tensor) -> None:
    histogram, _ = seen[name]
    histogram.add(values.detach().float().cpu().numpy())
    seen[name] = histogram, max(1, values[0].numel()) if values.ndim else 1
