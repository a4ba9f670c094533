"""One batch in pieces: nothing is lost, doubled or mixed up, whoever calls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.backends.splitting import SplitSession, check_split, pieces_of
from paring.errors import BackendError, InputError
from paring.types import TensorSpec

X = TensorSpec("x", "float32", (None, 2))


@given(rows=st.integers(1, 300), lanes=st.integers(1, 9), micro_batch=st.integers(0, 40))
def test_pieces_cover_every_row_once_and_in_order(rows, lanes, micro_batch):
    plan = pieces_of(rows, lanes, micro_batch)
    flat = [row for lane in plan for start, stop in lane for row in range(start, stop)]
    assert flat == list(range(rows))
    assert len(plan) == min(lanes, rows)
    sizes = [sum(stop - start for start, stop in lane) for lane in plan]
    assert max(sizes) - min(sizes) <= 1
    if micro_batch:
        assert all(stop - start <= micro_batch for lane in plan for start, stop in lane)


def doubled(inputs):
    return {"y": inputs["x"] * 2, "sum": inputs["x"].sum(axis=1)}


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [0, 1, 4])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_split_or_not_the_answer_is_the_same(lanes, micro_batch, rows):
    session = SplitSession("double", [doubled] * lanes, (X,), micro_batch=micro_batch)
    x = np.random.default_rng(rows).standard_normal((rows, 2), dtype=np.float32)
    found = session.run({"x": x})
    assert np.array_equal(found["y"], x * 2)
    assert np.array_equal(found["sum"], x.sum(axis=1))
    session.close()


def test_lanes_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=30)

    def lane(inputs):
        meeting.wait()
        return doubled(inputs)

    session = SplitSession("meet", [lane] * 3, (X,))
    assert session.run({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)
    session.close()


def test_callers_at_the_same_time_get_their_own_rows():
    session = SplitSession("double", [doubled, doubled], (X,), micro_batch=2)
    batches = [np.full((5, 2), value, np.float32) for value in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: session.run({"x": x})["y"], batches))
    for x, answer in zip(batches, answers, strict=True):
        assert np.array_equal(answer, x * 2)
    session.close()


@pytest.mark.parametrize("broken", [0, 1])
def test_a_lane_that_fails_is_an_error_and_the_next_batch_runs(broken):
    faults = [True]

    def failing(inputs):
        if faults:
            faults.pop()
            raise RuntimeError("out of luck\nat line 3")
        return doubled(inputs)

    lanes = [failing if lane == broken else doubled for lane in range(2)]
    session = SplitSession("half", lanes, (X,))
    x = np.ones((4, 2), np.float32)
    with pytest.raises(BackendError, match=r"^half failed on a batch of 4: out of luck\.$"):
        session.run({"x": x})
    assert np.array_equal(session.run({"x": x})["y"], x * 2)
    session.close()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the input 'x' is missing: the network takes x"),
        ({"x": [[1.0, 2.0]]}, "'x' is a list: give a numpy array"),
        ({"x": np.zeros((2, 2))}, "'x' is float64, and the network takes float32"),
        ({"x": np.zeros((2, 3), np.float32)}, r"'x' has shape \(2, 3\), and the network takes \(batch, 2\)"),
        ({"x": np.zeros((0, 2), np.float32)}, "'x' has 0 rows: give at least one"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, "no input 'z': it takes x"),
    ],
)
def test_what_does_not_fit_is_named(inputs, message):
    with pytest.raises(InputError, match=message):
        SplitSession("double", [doubled], (X,)).run(inputs)


def test_a_scalar_input_is_refused_when_the_network_is_loaded():
    with pytest.raises(BackendError, match="double takes the scalar input 'k'"):
        SplitSession("double", [doubled], (X, TensorSpec("k", "float32", ())))


@pytest.mark.parametrize(("streams", "micro_batch", "message"), [(0, 0, "streams=0"), (1, -2, "micro_batch=-2")])
def test_impossible_splits_are_refused(streams, micro_batch, message):
    with pytest.raises(BackendError, match=message):
        check_split(streams=streams, micro_batch=micro_batch)
