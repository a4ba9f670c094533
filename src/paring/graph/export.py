"""nn.Module -> the two forms that backends read: an exported program, and from it an ONNX graph."""

from __future__ import annotations

import inspect
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from paring.data.batches import DTYPES, mapped, model_call, rows_in, tensors_of
from paring.errors import ExportError, TaskError, in_words, quoted
from paring.graph.integer_constants import with_integer_constants
from paring.graph.names import name_layers_, name_values_
from paring.types import Signature, Structure, TensorSpec

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

OPSET = 20
MINIMUM_TRACE_ROWS = 2
"""A batch of one row would be taken for a constant."""


def structure_of(values: Any) -> Structure:
    """Whether the values are a tensor, a tuple or a dict."""
    if isinstance(values, Tensor):
        return "tensor"
    return "dict" if isinstance(values, dict) else "tuple"


def signature_of(model: nn.Module, inputs: Any) -> Signature:
    """How the network is called and what it answers, read off one forward pass."""
    try:
        with torch.inference_mode():
            outputs = model_call(model, inputs)
    except Exception as error:
        raise TaskError(f"the network can't run on the first batch of evaluate: {in_words(error)}.") from error
    _check_outputs(outputs)
    return Signature(
        inputs=_specs(inputs, "input"),
        outputs=_specs(outputs, "output"),
        input_structure=structure_of(inputs),
        output_structure=structure_of(outputs),
    )


def _check_outputs(outputs: Any) -> None:
    """A tensor, a tuple (or list) of tensors, or a dict of them; nothing inside of these but tensors."""
    wanted = "return a tensor, a tuple of tensors or a dict of tensors, without others inside it."
    if not isinstance(outputs, Tensor | tuple | list | dict) or not tensors_of(outputs):
        what = "an empty" if isinstance(outputs, tuple | list | dict) else "a"
        raise TaskError(f"the network returns {what} {type(outputs).__name__}: {wanted}")
    for name in outputs if isinstance(outputs, dict) else ():
        if not (isinstance(name, str) and name):
            raise TaskError(
                f"the network returns a dict with the key {quoted(name)}: name each of its outputs by a str."
            )
    for value in tensors_of(outputs):
        if not isinstance(value, Tensor):
            raise TaskError(
                f"the network returns a {type(outputs).__name__} that holds a {type(value).__name__}: {wanted}"
            )
        if value.dtype not in DTYPES:
            raise TaskError(
                f"the network returns {str(value.dtype).removeprefix('torch.')}, which runtimes can't hand back: "
                "end it with .float()."
            )


def _specs(values: Any, prefix: str) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of the tensors, with a free batch axis."""
    tensors = tensors_of(values)
    if isinstance(values, dict):
        names = list(values)
    else:
        names = [prefix] if len(tensors) == 1 else [f"{prefix}_{i}" for i in range(len(tensors))]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.ndim == 0:
            raise TaskError(f"{prefix} {name!r} is a scalar: every input and output needs the batch as axis 0.")
    return tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (None, *tensor.shape[1:]))
        for name, tensor in zip(names, tensors, strict=True)
    )


def trace_sample(inputs: Any) -> Any:
    """Inputs with as few rows as tracing needs."""
    rows = rows_in(inputs)
    if rows >= MINIMUM_TRACE_ROWS:
        return mapped(inputs, lambda value: value[:MINIMUM_TRACE_ROWS])
    return mapped(inputs, lambda value: torch.cat([value] * MINIMUM_TRACE_ROWS))


def export_program(model: nn.Module, inputs: Any) -> ExportedProgram:
    """Trace the network with a dynamic batch. Raises ExportError that names the module and line that stopped it."""
    inputs = trace_sample(inputs)
    batch = torch.export.Dim("batch", min=1)
    given, named = ((), inputs) if isinstance(inputs, dict) else (tensors_of(inputs), {})
    axes, named_axes = (mapped(values, lambda _: {0: batch}) for values in (given, named))
    with quiet_exporter(), torch.no_grad():
        try:
            # By the names of the parameters, since `*inputs` holds several; those given by name have theirs already.
            shapes = named_axes or dict(inspect.signature(model.forward).bind(*axes).arguments)
            return torch.export.export(model, given, named, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise ExportError(_export_message(model, error)) from error


def _export_message(model: nn.Module, error: BaseException) -> str:
    """One sentence with the innermost frame of the user's own code and the module that it belongs to."""
    return (
        f"the network can't be exported{_user_frame(model, error)}: {_cause(error)}. "
        "Replace control flow that depends on the data by tensor operations such as torch.where."
    )


def _cause(error: BaseException) -> str:
    """The first line that the exporter says, which may be many or none, without a full stop."""
    return next((text.strip().rstrip(".") for text in str(error).splitlines() if text.strip()), type(error).__name__)


def _user_frame(model: nn.Module, error: BaseException) -> str:
    """Where the user's own forward stood when the error rose, in this error or in one that led to it."""
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    torch_folder = str(Path(torch.__file__).parent)
    place = ""
    link: BaseException | None = error
    while link is not None:
        for frame, line in traceback.walk_tb(link.__traceback__):
            code = frame.f_code
            owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if isinstance(owner, nn.Module) and not code.co_filename.startswith(torch_folder):
                name = names.get(id(owner), type(owner).__name__)
                place = f" in module {name!r} at {code.co_filename}:{line}"
        link = link.__cause__ or link.__context__
    return place


def export_onnx(program: ExportedProgram, signature: Signature) -> onnx.ModelProto:
    """The exported program as an ONNX graph with the signature's names."""
    with quiet_exporter():
        try:
            exported = torch.onnx.export(program, opset_version=OPSET, dynamo=True, verbose=False)
            assert exported is not None
            graph = exported.model_proto
            name_values_(graph.graph, signature)
            name_layers_(graph)
        except Exception as error:
            raise ExportError(f"the network can't be written as an ONNX graph: {_cause(error)}.") from error
    for node in graph.graph.node:
        # The exporter notes where in the user's source each node comes from: paths that do not belong in an artifact.
        del node.metadata_props[:]
        node.doc_string = ""
    _clear_signs_of_zeros_(graph)
    return with_integer_constants(graph)


def _clear_signs_of_zeros_(graph: onnx.ModelProto) -> None:
    """A pruned weight times a negative factor of a folded batch norm is -0.0, whose sign would be kept as a value."""
    from onnx import TensorProto, numpy_helper

    for tensor in graph.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE) and tensor.raw_data:
            values = numpy_helper.to_array(tensor)
            if (np.signbit(values) & (values == 0)).any():
                tensor.raw_data = (values + 0).tobytes()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter prints graphs and warns of its own internals; what concerns the user is in the error it raises."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
