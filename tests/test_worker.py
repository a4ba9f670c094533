"""A network in a process of its own: its answers, its faults, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.probe_network import expected_outputs, probe_inputs, write_probe_network
from paring.backends.runner import graph_runner
from paring.backends.worker import _store
from paring.errors import BackendError, InputError, OutputError, TimeUpError
from tests.faulty_backends import Faulty
from tests.test_folder import full_disk


def faulty(fault: str = "", *, time_limit_s: float = 30.0) -> IsolatedSession:
    return IsolatedSession(Faulty(fault, (1, 2)), Path("none.onnx"), threads=1, time_limit_s=time_limit_s)


X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its new parent has not yet noticed counts."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def saved(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: folder / f"{name}.npy" for name in arrays}


def test_a_backend_that_is_no_part_of_the_package_runs_in_a_worker():
    with faulty() as session:
        assert np.array_equal(session.run(X)["y"], X["x"] * 2)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("segfault", "faulty.* ended its process with signal SIGSEGV"),
        ("real-time signal", f"faulty.* ended its process with signal {signal.SIGRTMIN + 3}"),
        ("exit", "faulty.* ended its process with exit code 7: last words on stderr"),
        ("raise", "^ValueError: the kernel is lost.$"),
    ],
)
def test_a_fault_of_the_runtime_is_an_error_in_one_sentence(fault, message):
    with faulty(fault) as session, pytest.raises(BackendError, match=message):
        session.run(X)


def test_a_dead_worker_stays_dead():
    with faulty("exit") as session:
        for _ in range(2):
            with pytest.raises(BackendError, match="exit code 7"):
                session.run(X)


def test_a_worker_that_survived_an_error_goes_on():
    with faulty("raise") as session:
        for _ in range(2):
            with pytest.raises(BackendError, match="the kernel is lost"):
                session.run(X)
        assert session.peak_memory_bytes() > 2**20


def test_a_hanging_runtime_is_stopped_at_its_time_limit(monkeypatch):
    session = faulty("hang")
    monkeypatch.setattr(session, "_limit_s", 1.0)  # A process that starts on a busy machine may need more.
    with session, pytest.raises(BackendError, match="did not answer 'run' within 1 s"):
        session.run(X)
    assert gone(session.pid)


@pytest.mark.parametrize("fault", ["hang", "slower"])
def test_a_runtime_is_stopped_at_the_deadline_whether_it_hangs_or_gets_on(fault, tmp_path, monkeypatch):
    session = faulty(fault)
    monkeypatch.setattr(session, "_deadline_s", time.monotonic() + 1.5)
    files = saved(tmp_path, {"x": np.ones((1000, 2), np.float32)})
    told = "the time limit ended before faulty.* answered 'run_rows': allow more time"
    with session, pytest.raises(TimeUpError, match=told):
        session.run_rows(files, start=0, stop=1000, batch_size=1, folder=tmp_path)
    assert gone(session.pid)


def test_a_deployment_is_not_waited_for_beyond_its_deadline():
    late = Deployment(Faulty("", (1, 2)), Path("none.onnx"), deadline_s=time.monotonic() - 1)
    with pytest.raises(TimeUpError, match="answered 'load'"):
        IsolatedSession.of(late, threads=1)


@pytest.mark.parametrize("command", ["run_rows", "time"])
def test_a_network_that_is_merely_slow_is_not_stopped(command, tmp_path, monkeypatch):
    with faulty("slower") as session:
        monkeypatch.setattr(session, "_limit_s", 2.0)
        files = saved(tmp_path, {"x": np.ones((8, 2), np.float32)})
        if command == "run_rows":
            answers = session.run_rows(files, start=0, stop=8, batch_size=1, folder=tmp_path)
            assert (np.load(answers["y"]) == 2).all()
        else:
            assert len(session.time_block(files, batch_size=1, min_time_s=0.0, min_runs=4, warm_runs=3)) == 4


def test_a_failed_load_leaves_no_process_behind():
    with pytest.raises(BackendError, match="MemoryError"):
        faulty("load")


def test_what_a_runtime_prints_does_not_disturb_the_answers():
    with faulty("print") as session:
        for _ in range(3):
            assert np.array_equal(session.run(X)["y"], X["x"] * 2)


def test_a_closed_session_says_so():
    session = faulty()
    session.close()
    session.close()
    with pytest.raises(BackendError, match="was closed"):
        session.run(X)
    assert gone(session.pid)


def test_a_class_inside_a_function_is_refused_with_the_remedy():
    class Local(Faulty):
        pass

    with pytest.raises(InputError, match="defined inside a function: move it to the top level"):
        IsolatedSession(Local(), Path("none.onnx"), threads=1)


PARENT = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from tests.faulty_backends import Faulty
from tests.test_folder import full_disk
from paring.backends.isolated import IsolatedSession
if __name__ == "__main__":
    session = IsolatedSession(Faulty({fault!r}), Path("none.onnx"), threads=1)
    print(session.pid, session._worker.scratch, flush=True)
    session.run({{"x": np.zeros((1, 1), np.float32)}})
    time.sleep(600)
"""


@pytest.mark.parametrize("fault", ["", "hang"], ids=["idle", "busy"])
def test_a_worker_dies_with_its_killed_parent(fault, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(root=str(Path(__file__).parents[1]), fault=fault))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        pid, scratch = parent.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        time.sleep(0.3)
        parent.kill()
    assert gone(int(pid))
    assert not Path(scratch).exists()


def test_an_interrupt_of_the_terminal_does_not_reach_the_worker():
    with faulty() as session:
        os.kill(session.pid, signal.SIGINT)
        assert np.array_equal(session.run(X)["y"], X["x"] * 2)


TASK_FILE = """
from dataclasses import dataclass
from typing import ClassVar
from helper_beside_it import FACTOR
from tests.faulty_backends import Faulty
from tests.test_folder import full_disk

class Session:
    def run(self, inputs):
        return {"y": inputs["x"] * FACTOR}
    def close(self):
        pass

@dataclass(frozen=True)
class Mine(Faulty):
    name: ClassVar[str] = "mine"
    def load(self, network, *, threads, device="cpu"):
        return Session()

if __name__ == "__main__":
    import numpy as np
    from pathlib import Path
    from paring.backends.isolated import IsolatedSession
    with IsolatedSession(Mine(), Path("none.onnx"), threads=1) as session:
        print(session.run({"x": np.ones((1, 1), np.float32)})["y"][0, 0])
"""


def test_a_backend_in_a_script_that_is_run_by_itself(tmp_path):
    (tmp_path / "task.py").write_text(TASK_FILE)
    (tmp_path / "helper_beside_it.py").write_text("FACTOR = 5\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "task.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "5.0", done.stderr


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    network = write_probe_network("onnx", tmp_path_factory.mktemp("network"))
    with IsolatedSession.of(Deployment(OnnxRuntime(), network), threads=1) as session:
        yield session


@pytest.mark.parametrize(("start", "stop", "batch_size"), [(0, 23, 5), (7, 20, 64), (22, 23, 1)])
def test_rows_of_files_are_run_in_batches(loaded, tmp_path, start, stop, batch_size):
    arrays = probe_inputs(23)
    files = loaded.run_rows(saved(tmp_path, arrays), start=start, stop=stop, batch_size=batch_size, folder=tmp_path)
    expected = expected_outputs({name: array[start:stop] for name, array in arrays.items()})
    assert list(files) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.load(files[name]), value, atol=1e-5)


def test_every_batch_has_the_size_that_was_asked(tmp_path):
    with faulty("batch") as session:
        files = saved(tmp_path, X)
        for start, stop, batch_size in [(0, 3, 2), (2, 3, 64), (1, 2, 1)]:
            answers = session.run_rows(files, start=start, stop=stop, batch_size=batch_size, folder=tmp_path)
            assert np.load(answers["y"]).tolist() == [[batch_size] * 2] * (stop - start)


def test_rows_beyond_the_end_are_refused(loaded, tmp_path):
    with pytest.raises(InputError, match="rows up to 9 are asked for, and the input 'a' has 4"):
        loaded.run_rows(saved(tmp_path, probe_inputs(4)), start=0, stop=9, batch_size=2, folder=tmp_path)


def test_an_output_without_the_batch_axis_is_refused(tmp_path):
    with faulty("shape") as session, pytest.raises(InputError, match=r"'y' has shape \(4, 2\) for 3 rows"):
        session.run_rows(saved(tmp_path, X), start=0, stop=3, batch_size=3, folder=tmp_path)


def test_a_block_is_timed_call_by_call(tmp_path):
    with faulty("slow") as session:
        taken = session.time_block(saved(tmp_path, X), batch_size=8, min_time_s=0.0, min_runs=4, warm_runs=1)
        longer = session.time_block(saved(tmp_path, X), batch_size=8, min_time_s=0.1)
    assert taken.shape == (4,)
    assert (taken >= 10_000_000).all()
    assert len(longer) >= 2 or longer.sum() >= 100_000_000


def test_wrong_inputs_of_a_worker_are_input_errors(loaded):
    with pytest.raises(InputError, match="'b' is missing"):
        loaded.run({"a": probe_inputs(1)["a"]})


def chain(outputs: list[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["inner/square"]),
        helper.make_node("Add", ["inner/square", "x"], ["inner.sum"]),
        helper.make_node("Relu", ["inner.sum"], ["y"]),
    ]
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in ("x", *outputs)}
    graph = helper.make_graph(nodes, "chain", [values["x"]], [values[n] for n in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_graph_runs_on_the_spot_and_every_value_keeps_its_name():
    graph = chain(["y", "inner/square", "inner.sum"])
    before = graph.SerializeToString()
    with graph_runner(graph, threads=1) as session:
        found = session.run(X)
    square = X["x"] ** 2
    assert list(found) == ["y", "inner/square", "inner.sum"]
    assert np.array_equal(found["inner/square"], square)
    assert np.array_equal(found["inner.sum"], square + X["x"])
    assert graph.SerializeToString() == before


def test_a_graph_that_can_not_be_run_is_an_error():
    graph = chain(["y"])
    graph.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BackendError, match="NoSuchOperator"), graph_runner(graph):
        pass
    with pytest.raises(TimeUpError), graph_runner(chain(["y"]), deadline_s=time.monotonic() - 1):
        pass


def rows_of(folder: Path, count: int) -> dict[str, Path]:
    return saved(folder, {"x": np.ones((count, 2), np.float32)})


def test_a_full_disk_is_told_apart_from_a_fault_of_the_network(tmp_path):
    with full_disk(20_000):
        session = faulty()
    with session:
        with pytest.raises(OutputError, match=r"output-0\.npy can't be written \(File too large\)"):
            session.run({"x": np.ones((20_000, 2), np.float32)})
        with pytest.raises(OutputError, match=r"output-0\.npy can't be written \(File too large\)"):
            session.run_rows(rows_of(tmp_path, 20_000), start=0, stop=20_000, batch_size=500, folder=tmp_path)
        assert np.array_equal(session.run(X)["y"], X["x"] * 2)


def test_an_input_that_the_disk_refuses_is_told(tmp_path):
    with faulty() as session, full_disk(20_000), pytest.raises(OutputError, match=r"input-0\.npy can't be written"):
        session.run({"x": np.ones((20_000, 2), np.float32)})


def test_a_runtime_that_meets_a_full_disk_is_no_fault_of_the_network():
    with faulty("full") as session, pytest.raises(OutputError, match=r"cache\.bin can't be written \(No space left"):
        session.run(X)


@pytest.mark.skipif(sys.platform == "darwin", reason="it can't reserve bytes")
def test_outputs_that_are_mapped_have_their_bytes_on_disk(tmp_path):
    """Written to a map on a full disk, a byte that was not reserved is a SIGBUS."""
    _store(tmp_path, 0, np.zeros((1, 1000)), 1000)
    file = (tmp_path / "output-0.npy").stat()
    assert file.st_blocks * 512 >= file.st_size >= 8_000_000
