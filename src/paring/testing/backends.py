"""The contract of a backend, as checks that any backend must pass: each takes one with its options, and a folder.

    @pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
    def test_mine(check, tmp_path):
        check(Mine(), tmp_path)

The oracle is NumPy. A check raises AssertionError, with what it expected, where the backend breaks the contract.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from paring.backends.base import NETWORK_FILES, Backend
from paring.backends.isolated import IsolatedSession
from paring.backends.probe_network import TOLERANCE, expected_outputs, probe_inputs, write_probe_network
from paring.errors import BackendError, InputError, ParingError
from paring.types import Arrays, Budget, Session

ROW_COUNTS = (1, 2, 3, 4, 5, 17, 1)


def answers_as_numpy(backend: Backend, folder: Path) -> None:
    """Every number of rows gets the right answers, under the network's own output names."""
    session = _loaded(backend, folder)
    for rows in ROW_COUNTS:
        inputs = probe_inputs(rows)
        _assert_close(session.run(inputs), expected_outputs(inputs), f"{rows} rows")
    session.close()


def takes_inputs_in_any_layout(backend: Backend, folder: Path) -> None:
    """The order of the names, strides and read-only memory do not matter, and the inputs stay as they were."""
    session = _loaded(backend, folder)
    inputs = probe_inputs(4)
    strided = {"b": np.asfortranarray(inputs["b"]), "a": np.repeat(inputs["a"], 2, axis=0)[::2]}
    for array in strided.values():
        array.flags.writeable = False
    _assert_close(session.run(strided), expected_outputs(inputs), "strided, read-only inputs")
    for name, array in probe_inputs(4).items():
        assert np.array_equal(strided[name], array), f"the input {name!r} was written to"
    session.close()


def answers_stay(backend: Backend, folder: Path) -> None:
    """An answer is the caller's: the next run does not change it."""
    session = _loaded(backend, folder)
    inputs = probe_inputs(3)
    first = session.run(inputs)
    session.run({name: array * 2 for name, array in inputs.items()})
    _assert_close(first, expected_outputs(inputs), "an answer, after the next run")
    session.close()


def refuses_wrong_inputs(backend: Backend, folder: Path) -> None:
    """Bad inputs are InputErrors that name the input, and the session goes on working."""
    session = _loaded(backend, folder)
    good = probe_inputs(2)
    bad = {
        "a missing input": {"a": good["a"]},
        "an unknown input": {**good, "b2": good["b"]},
        "a wrong dtype": {**good, "b": good["b"].astype(np.float64)},
        "a wrong size": {**good, "b": good["b"][:, :3]},
        "a wrong rank": {**good, "b": good["b"][0]},
        "rows that differ": {**good, "b": good["b"][:1]},
        "no rows": {name: array[:0] for name, array in good.items()},
    }
    for what, inputs in bad.items():
        message = _refusal(partial(session.run, inputs), InputError, what)
        assert "'b" in message or "'a'" in message or "b has" in message, f"no input is named: {message}"
    _assert_close(session.run(good), expected_outputs(good), "a good batch after bad ones")
    session.close()


def refuses_damaged_network(backend: Backend, folder: Path) -> None:
    """A file that is no network, and one that is not there, are BackendErrors of one line that name the file."""
    for name, content in (("damaged", b"no network"), ("absent", None)):
        path = folder / f"{name}-{NETWORK_FILES[backend.format]}"
        if content is not None:
            path.write_bytes(content)
        message = _refusal(partial(backend.load, path, threads=1), BackendError, path.name)
        assert path.name in message, f"the error does not name the file: {message}"
        assert "\n" not in message, f"the error has several lines: {message}"


def closed_is_closed(backend: Backend, folder: Path) -> None:
    """A closed session refuses to run, and can be closed again."""
    session = _loaded(backend, folder)
    session.close()
    session.close()
    _refusal(partial(session.run, probe_inputs(1)), BackendError, "a run after close")


def options_survive_json(backend: Backend, folder: Path) -> None:
    """Options are plain values that give the same backend again; others are refused by name."""
    kind = type(backend)
    stored = json.loads(json.dumps(backend.options()))
    assert kind.with_options(stored) == backend, f"{backend} came back as {kind.with_options(stored)}"
    message = _refusal(partial(kind.with_options, {"no_such_option": 1}), BackendError, "an unknown option")
    assert "no_such_option" in message, f"the error does not name the option: {message}"


def variants_are_distinct(backend: Backend, folder: Path) -> None:
    """The variants are different settings of this backend, the plain default first."""
    kind = type(backend)
    for budget in (Budget(batch_size=1), Budget(batch_size=64, objective="throughput")):
        found = list(kind.variants(budget, 2))
        assert found, "no variants"
        if not kind.required_options():
            assert found[0] == kind.with_options({}), f"the first variant is {found[0]}, not the default"
        assert len(set(found)) == len(found), f"a variant comes twice: {', '.join(map(str, found))}"


def runs_in_a_worker(backend: Backend, folder: Path) -> None:
    """A process of its own can load it and gives the same answers."""
    network = write_probe_network(backend.format, folder)
    inputs = probe_inputs(5)
    with IsolatedSession(backend, network, threads=2) as session:
        _assert_close(session.run(inputs), expected_outputs(inputs), "a worker's answers")
        assert session.peak_memory_bytes() > 0, "the worker holds no memory"


BACKEND_CHECKS: tuple[Callable[[Backend, Path], None], ...] = (
    answers_as_numpy,
    takes_inputs_in_any_layout,
    answers_stay,
    refuses_wrong_inputs,
    refuses_damaged_network,
    closed_is_closed,
    options_survive_json,
    variants_are_distinct,
    runs_in_a_worker,
)


def _loaded(backend: Backend, folder: Path) -> Session:
    return backend.load(write_probe_network(backend.format, folder), threads=2)


def _refusal(act: Callable[[], object], kind: type[ParingError], what: str) -> str:
    """The message of the error that must come."""
    try:
        act()
    except kind as error:
        return str(error)
    raise AssertionError(f"{what} was accepted")


def _assert_close(found: Arrays, expected: Arrays, what: str) -> None:
    assert list(found) == list(expected), f"{what}: outputs {list(found)}, expected {list(expected)}"
    for name, value in expected.items():
        got = found[name]
        assert got.shape == value.shape, f"{what}: {name!r} has shape {got.shape}, expected {value.shape}"
        assert got.dtype == value.dtype, f"{what}: {name!r} is {got.dtype}, expected {value.dtype}"
        error = float(np.abs(got - value).max())
        assert error <= TOLERANCE, f"{what}: {name!r} is off by {error:.2g}"
