"""Threads are an option: backends offer fewer of them, and never take more than the budget's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.cores import usable_cores
from paring.backends.isolated import IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.backends.probe_network import probe_inputs, write_probe_network
from paring.backends.torch import Torch
from paring.errors import BackendError
from paring.types import Budget

RUNTIMES = [OnnxRuntime, OpenVINO, Torch]
COUNTED = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir() or usable_cores() < 2, reason="needs two cores, and Linux to count threads"
)


def system_threads(backend: Backend, given: int, folder: Path) -> int:
    """How many threads the system counts in the process of a network that has run."""
    network = folder / NETWORK_FILES[backend.format]
    if not network.is_file():
        write_probe_network(backend.format, folder)
    with IsolatedSession(backend, network, threads=given) as session:
        session.run(probe_inputs(64))
        return len(list(Path(f"/proc/{session.pid}/task").iterdir()))


@COUNTED
@pytest.mark.parametrize(
    ("kind", "own", "given", "as_if_given"),
    [(OnnxRuntime, 1, 4, 1), (OnnxRuntime, 9, 2, 2), (OpenVINO, 1, 4, 1)],
)
def test_a_network_takes_its_own_number_of_threads_within_what_it_is_given(kind, own, given, as_if_given, tmp_path):
    assert system_threads(kind(threads=own), given, tmp_path) == system_threads(kind(), as_if_given, tmp_path)
    assert system_threads(kind(), 4, tmp_path) > system_threads(kind(), 1, tmp_path)


@COUNTED
def test_more_streams_than_threads_are_as_many_as_threads(tmp_path):
    assert system_threads(OnnxRuntime(streams=4), 1, tmp_path) == system_threads(OnnxRuntime(), 1, tmp_path)


@pytest.mark.parametrize(("own", "given", "taken"), [(1, 2, 1), (9, 2, 2), (0, 2, 2)])
def test_torch_takes_its_own_number_within_what_it_is_given(own, given, taken, tmp_path):
    before = torch.get_num_threads()
    try:
        Torch(threads=own).load(write_probe_network("torch", tmp_path), threads=given)
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.parametrize(
    ("batch_size", "given", "tried"),
    [(1, 1, {0}), (1, 2, {0, 1}), (8, 2, {0}), (1, 16, {0, 1, 8}), (64, 16, {0, 8})],
)
def test_small_batches_are_tried_on_one_thread_and_many_threads_on_half(kind, batch_size, given, tried):
    variants = list(kind.variants(Budget(batch_size=batch_size), given))
    assert variants[0] == kind()
    assert {variant.threads for variant in variants} == tried
    assert len(set(variants)) == len(variants) <= 6


def test_spinning_is_tried_where_there_is_somebody_to_wait_for():
    asleep = [[v.spinning for v in OnnxRuntime.variants(Budget(), given)].count(False) for given in (1, 2)]
    assert asleep == [0, 1]


@pytest.mark.parametrize("kind", RUNTIMES)
def test_an_impossible_number_of_threads_is_quoted(kind):
    with pytest.raises(BackendError, match="threads=-1 must be a number of threads, or 0 for all that are given"):
        kind(threads=-1)
