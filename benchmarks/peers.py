"""Networks that other tools quantize, each made in a process of its own: they patch torch and keep their memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

Rows = dict[str, Any]
"""An array for each input of the network: what a tool calibrates on."""


def onnxruntime_static(source: Path, rows: Path, target: Path, method: str = "MinMax", **extra: Any) -> None:
    """ONNX Runtime's quantize_static: QDQ, per channel, u8 x s8, on 512 rows in batches of 32."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(rows, 512, 32)

        def get_next(self) -> Rows | None:
            return next(self.batches, None)

    quantize(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        **extra,
    )


def onnxruntime_dynamic(source: Path, rows: Path, target: Path, **extra: Any) -> None:
    """ONNX Runtime's quantize_dynamic: per channel, s8 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8, **extra)


def nncf_static(source: Path, rows: Path, target: Path, **extra: Any) -> None:
    """NNCF's quantize for OpenVINO: its defaults, on 300 rows one by one."""
    # NNCF reports what it is used for, unless it believes to be in a test of its makers.
    os.environ["CI"] = "true"
    import nncf
    import openvino

    model_type = {"model_type": nncf.ModelType.TRANSFORMER} if extra.pop("transformer", False) else {}
    data = nncf.Dataset(list(_batches(rows, 300, 1)))
    openvino.save_model(nncf.quantize(openvino.Core().read_model(source), data, **model_type, **extra), target)


MAKERS = {
    "ONNX Runtime static": onnxruntime_static,
    "ONNX Runtime dynamic": onnxruntime_dynamic,
    "NNCF on OpenVINO": nncf_static,
}


def made_by(peer: str, source: Path, rows: Path, target: Path, **options: Any) -> Path:
    """The peer's network at `target`; `rows` is an .npz with the inputs by their names."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(MAKERS[peer], source, rows, target, **options).result()
    return target


def _batches(rows: Path, count: int, size: int) -> Iterator[Rows]:
    with np.load(rows) as arrays:
        held = {name: arrays[name][:count] for name in arrays.files}
    for start in range(0, len(next(iter(held.values()))), size):
        yield {name: array[start : start + size] for name, array in held.items()}
