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
    return sum(file.stat().st_size for file in network_files(network))


def network_files(network: Path) -> tuple[Path, ...]:
    """The files that a network consists of, the network's own first. Raises InputError where one is missing."""
    if network.is_dir():
        return tuple(sorted(file for file in network.rglob("*") if file.is_file()))
    files: tuple[Path, ...] = (network,)
    if network.suffix == ".onnx" and network.is_file():
        files += tuple(sorted(network.parent / name for name in _external_names(network)))
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing, and {network} needs it: copy all of the network's files.")
    return files


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
