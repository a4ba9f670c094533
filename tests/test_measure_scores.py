"""The task's metric on what a network in another process answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.probe_network import expected_outputs, probe_inputs, write_probe_network
from paring.data.rows import write_rows
from paring.errors import TaskError
from paring.measure import scores as scoring
from paring.measure.scores import metric_scores, score_chunks
from paring.types import CorpusMetric, Signature, Task, TensorSpec
from tests.faulty_backends import Faulty

SPECS = (TensorSpec("a", "float32", (None, 3, 8, 6)), TensorSpec("b", "float32", (None, 4)))
OUTPUTS = (TensorSpec("y", "float32", (None, 4)), TensorSpec("z", "float32", (None,)))
SIGNATURE = Signature(SPECS, OUTPUTS, "dict", "dict")
ONE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),), "tensor", "tensor")
COUNT = 23


def closeness(outputs, targets):
    return torch.exp(-(outputs["z"] - targets["wanted"]).abs())


def scored(session, rows, task, signature, *, batch_size=8, **span):
    return np.concatenate(list(score_chunks(session, rows, task, signature, batch_size=batch_size, **span)))


def task(metric, **changes):
    return Task(Path("none.onnx"), evaluate=[], metric=metric, **changes)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    inputs = {name: torch.from_numpy(array) for name, array in probe_inputs(COUNT).items()}
    wanted = {"wanted": torch.arange(COUNT, dtype=torch.float32)}
    return write_rows([(inputs, wanted)], tmp_path_factory.mktemp("rows"), ("a", "b"))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    network = write_probe_network("onnx", tmp_path_factory.mktemp("network"))
    with IsolatedSession.of(Deployment(OnnxRuntime(), network), threads=1) as loaded:
        yield loaded


def expected(start=0, stop=COUNT):
    z = expected_outputs(probe_inputs(COUNT))["z"]
    return np.exp(-np.abs(z - np.arange(COUNT)))[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 5), (5, 23), (20, 99)])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_scores_of_any_slice_are_those_of_its_rows(session, rows, start, stop, chunk, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_BYTES", chunk)
    found = scored(session, rows, task(closeness), SIGNATURE, start=start, stop=stop, batch_size=3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(start, stop), atol=1e-5)


def spans_run(session, rows, monkeypatch, **options):
    """The ranges of rows that were in flight at a time, and the sizes of what the metric saw."""
    spans, seen = [], []

    def run_rows(inputs, *, start, stop, batch_size, folder):
        spans.append((start, stop))
        return IsolatedSession.run_rows(session, inputs, start=start, stop=stop, batch_size=batch_size, folder=folder)

    def counted(outputs, targets):
        seen.append(len(outputs["z"]))
        return closeness(outputs, targets)

    with monkeypatch.context() as patch:
        patch.setattr(session, "run_rows", run_rows)
        found = scored(session, rows, task(counted), SIGNATURE, **options)
    np.testing.assert_allclose(found, expected(), atol=1e-5)
    assert seen == [stop - start for start, stop in spans]
    return spans


ROW_BYTES = 4 * 4 + 4 + 4
"""The outputs y and z of a row, and its target."""


def test_the_rows_in_flight_are_bounded_by_their_bytes(session, rows, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 9 * ROW_BYTES)
    assert spans_run(session, rows, monkeypatch, batch_size=2) == [(0, 2), (2, 10), (10, 18), (18, 23)]
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 1)
    assert max(stop - start for start, stop in spans_run(session, rows, monkeypatch, batch_size=2)) == 2


def test_the_rows_of_a_slow_network_come_in_small_pieces(session, rows, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_TIME_S", 1e-9)
    assert len(spans_run(session, rows, monkeypatch, batch_size=1)) == COUNT
    monkeypatch.setattr(scoring, "CHUNK_TIME_S", 1e9)
    assert spans_run(session, rows, monkeypatch, batch_size=1) == [(0, 1), (1, COUNT)]


def test_statistics_of_a_corpus_metric_keep_their_columns(session, rows):
    metric = CorpusMetric(lambda out, to: torch.stack([out["z"], to["wanted"]], 1) * 100, lambda s: float(s.mean()))
    found = scored(session, rows, task(metric), SIGNATURE)
    assert found.shape == (COUNT, 2)
    np.testing.assert_allclose(found[:, 1], np.arange(COUNT) * 100)


def test_no_rows_are_refused(session, rows):
    with pytest.raises(TaskError, match="rows 23 to 23 of 23 are none"):
        scored(session, rows, task(closeness), SIGNATURE, start=23)


def test_a_wider_range_allows_higher_scores(session, rows):
    wide = task(lambda out, to: out["z"] + 5, score_range=(0.0, 1000.0))
    assert scored(session, rows, wide, SIGNATURE).min() >= 5


def test_an_output_that_is_not_finite_names_its_row(tmp_path):
    values = torch.ones(6, 2)
    values[4, 1] = float("nan")
    stored = write_rows([(values, torch.zeros(6))], tmp_path / "rows", ("x",))
    with (
        IsolatedSession(Faulty(), Path("none.onnx"), threads=1) as loaded,
        pytest.raises(TaskError, match="the network's output 'y' holds NaN or infinity, first in row 4"),
    ):
        scored(loaded, stored, task(lambda out, to: out[:, 0]), ONE)


def test_the_metric_sees_the_users_own_structure():
    seen = []

    def metric(outputs, targets):
        seen.append((type(outputs), type(targets)))
        return torch.ones(2)

    pair = Signature((), (TensorSpec("p", "float32", (None,)), TensorSpec("q", "float32", (None,))), "tensor", "tuple")
    arrays = {"p": np.zeros(2, np.float32), "q": np.ones(2, np.float32)}
    metric_scores(task(metric), arrays, None, pair)
    metric_scores(task(metric), {"y": arrays["p"]}, torch.zeros(2), ONE)
    assert seen == [(tuple, type(None)), (torch.Tensor, torch.Tensor)]
