"""Bytes on disk of a network with everything that loading it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from paring.errors import InputError

if TYPE_CHECKING:
    import onnx


def network_size_bytes(network: Path) -> int:
    """Bytes of a file or of all files in a folder; for an ONNX file with those that hold its weights.

    Raises InputError where a file is missing.
    """
    return sum(_file_bytes(file, network) for file in network_files(network))


def network_files(network: Path) -> tuple[Path, ...]:
    """The files that a network consists of, the network's own first."""
    if network.is_dir():
        return tuple(sorted(file for file in network.rglob("*") if file.is_file()))
    if network.suffix != ".onnx" or not network.is_file():
        return (network,)
    return (network, *sorted(network.parent / name for name in _external_names(network)))


def _file_bytes(file: Path, network: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise InputError(f"{file} is missing, and {network} needs it: copy all of the network's files.") from error


def _external_names(network: Path) -> set[str]:
    import onnx

    model = onnx.load(network, load_external_data=False)
    return {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _tensors(inner)
