"""What makes two runs the same question, and what their user is told where they are not."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from paring.data import held
from paring.errors import InputError, OutputError
from paring.fingerprint import fingerprint
from paring.flow.folder import RunFolder
from paring.flow.identity import changes, data_digest, identity, model_digest
from paring.flow.request import Request
from paring.ops.scores import accuracy
from paring.types import Budget, CorpusMetric, Task
from tests import sleepy

TASK = sleepy.task(200)
ROWS = sleepy.rows(50)


def asked(task: Task = TASK, **others: Any) -> dict[str, Any]:
    request = Request(task, Budget(), Path("out"), techniques=[sleepy.Cheapen()], backends=[sleepy.Sleepy()])
    return identity(replace(request, **others), "1.0", "digest of the rows")


def lenient(outputs: torch.Tensor, targets: torch.Tensor, allowed: int = 2) -> torch.Tensor:
    return (outputs.topk(allowed).indices == targets[:, None]).any(1).float()


def noisy_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.sum()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"metric": lenient}, "metric"),
        ({"loss": noisy_loss}, "loss"),
        ({"score_range": (0.0, 2.0)}, "score_range ([0.0, 1.0] there, [0.0, 2.0] here)"),
        ({"train": [ROWS]}, "train"),
        ({"calibrate": [ROWS]}, "calibrate"),
        ({"name": "other"}, "task name (points there, other here)"),
        ({"model": torch.nn.Linear(6, 3).eval()}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_each_part_of_a_task_counts_and_is_named(changed: dict[str, Any], told: str) -> None:
    assert changes(asked(), asked(replace(TASK, **changed))) == [told]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"budget": Budget(max_drop=0.02)}, "max_drop (0.01 there, 0.02 here)"),
        ({"budget": Budget(max_latency_ms=3.0)}, "max_latency_ms (None there, 3.0 here)"),
        ({"budget": Budget(objective="size")}, "objective (latency there, size here)"),
        ({"seed": 7}, "seed (0 there, 7 here)"),
        ({"techniques": [sleepy.Cheapen(3.0)]}, "techniques"),
        ({"techniques": [sleepy.Cheapen]}, "techniques"),
        ({"backends": [sleepy.Absent()]}, "backends"),
    ],
    ids=str,
)
def test_each_part_of_what_was_asked_counts_and_is_named(changed: dict[str, Any], told: str) -> None:
    assert changes(asked(), asked(**changed)) == [told]


def test_more_time_is_the_same_question() -> None:
    assert changes(asked(time_limit_s=100.0), asked(time_limit_s=2000.0)) == []


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_record_of_the_question_is_named(tmp_path: Path, text: str) -> None:
    RunFolder(tmp_path).resume(asked())
    (tmp_path / "trials" / "run.json").write_text(text)
    with pytest.raises(OutputError, match=r"run\.json .*--fresh"):
        RunFolder(tmp_path).resume(asked())


DERIVED = "class F(B):\n def __call__(s, x): return s.m()\nf = F()"
CLOSURE = "def h(k):\n def g(x): return x > k\n return g\n"


def written(text: str) -> Callable[..., Any]:
    """A function `f` from a source text."""
    names: dict[str, Any] = {"__name__": "user_task"}
    exec(text, names)
    return names["f"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x): return x > 1", "def f(x): return x > 2"),
        ("def f(x): return x.min()", "def f(x): return x.max()"),
        ("def f(x, k=1): return x > k", "def f(x, k=2): return x > k"),
        ("K = 1\ndef f(x): return x > K", "K = 2\ndef f(x): return x > K"),
        ("def g(x): return x\ndef f(x): return g(x)", "def g(x): return -x\ndef f(x): return g(x)"),
        (f"{CLOSURE}f = h(1)", f"{CLOSURE}f = h(2)"),
        ("class F:\n def __call__(s, x): return x\nf = F()", "class F:\n def __call__(s, x): return -x\nf = F()"),
        ("class F:\n def __init__(s, k): s.k = k\nf = F(1)", "class F:\n def __init__(s, k): s.k = k\nf = F(2)"),
        (f"class B:\n def m(s): return 1\n{DERIVED}", f"class B:\n def m(s): return 2\n{DERIVED}"),
        ("f = [x for x in 'a']", "f = [x for x in 'b']"),
    ],
)
def test_functions_differ_where_their_behaviour_does(one: str, other: str) -> None:
    assert fingerprint(written(one)) == fingerprint(written(one))
    assert fingerprint(written(one)) != fingerprint(written(other))


def test_comments_and_places_do_not_count() -> None:
    assert fingerprint(written("def f(x): return x > 1")) == fingerprint(
        written("# Why.\n\ndef f(x):\n    return x > 1  # So.")
    )


def test_partials_and_corpus_metrics_are_what_they_hold() -> None:
    two, three = (functools.partial(lenient, allowed=k) for k in (2, 3))
    assert fingerprint(two) == fingerprint(functools.partial(lenient, allowed=2))
    assert fingerprint(two) != fingerprint(three)
    assert fingerprint(CorpusMetric(accuracy, np.mean)) != fingerprint(CorpusMetric(accuracy, np.max))
    assert fingerprint(CorpusMetric(accuracy, np.mean)) == fingerprint(CorpusMetric(accuracy, np.mean))


def test_a_range_of_numpy_numbers_is_the_same_question(tmp_path: Path) -> None:
    ends = (np.float32(0), np.float32(1))
    assert RunFolder(tmp_path).resume(asked(replace(TASK, score_range=ends))) == []
    assert RunFolder(tmp_path).resume(asked()) == []


def test_a_function_that_calls_itself_and_a_value_that_holds_itself_end() -> None:
    assert fingerprint(written("def f(x): return f(x - 1) if x else 0")).startswith("user_task.f ")
    chain: list[Any] = []
    for _ in range(5000):
        chain = [chain]
    holder: dict[str, Any] = {"deep": chain, "module": torch, "logger": logging.getLogger("paring")}
    holder["itself"] = holder
    assert fingerprint(holder).startswith("builtins.dict ")


def test_other_processes_find_the_same() -> None:
    code = (
        "from tests import test_identity as t; from paring.fingerprint import fingerprint as f;"
        "several = [t.lenient, t.TASK, lambda x: x in {'a', 'b', 'c', 'd'}, {'a', 'b'}, t.sleepy.Cheapen, object()];"
        "print(*map(f, several))"
    )
    path = ":".join(sys.path)
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert "tests.test_identity.lenient" in told.pop()


def test_data_in_memory_is_known_by_all_its_batches() -> None:
    first, other = sleepy.rows(50), sleepy.rows(50, seed=1)
    assert data_digest([first], "train") == data_digest([sleepy.rows(50)], "train")
    assert len({data_digest(d, "train") for d in ([first], [other], [first, other], [sleepy.rows(40)], None)}) == 5


def test_shuffled_data_is_the_same_data() -> None:
    def loader(rows: int) -> Any:
        data = torch.utils.data.TensorDataset(*sleepy.rows(rows))
        return torch.utils.data.DataLoader(data, batch_size=10, shuffle=True)

    assert data_digest(loader(50), "train") == data_digest(loader(50), "train")
    assert data_digest(loader(50), "train") != data_digest(loader(100), "train")


def dataset(*values: torch.Tensor) -> Any:
    return torch.utils.data.TensorDataset(*values)


def loaded(data: Any, **options: Any) -> Any:
    return torch.utils.data.DataLoader(data, batch_size=10, **options)


@pytest.mark.parametrize(
    "made",
    [
        lambda points, classes: list(zip(points.split(10), classes.split(10), strict=True)),
        lambda points, classes: tuple((p, c.numpy()) for p, c in zip(points.split(10), classes.split(10), strict=True)),
        lambda points, classes: loaded(dataset(points, classes)),
        lambda points, classes: loaded(dataset(points, classes), shuffle=True, generator=torch.Generator()),
        lambda points, classes: loaded(list(zip(points, classes.tolist(), strict=True)), shuffle=True),
        lambda points, classes: loaded(torch.utils.data.Subset(dataset(points, classes), range(10, 50))),
    ],
    ids=["list", "arrays", "loader", "own generator", "list of rows", "subset"],
)
@pytest.mark.parametrize("most_bytes", [2**31, 1100])
def test_one_row_or_label_that_is_changed_in_memory_makes_other_data(
    made: Callable[..., Any], most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "WHOLE_BYTES", most_bytes)
    points, classes = sleepy.rows(50)
    before = data_digest(made(points, classes), "train")
    assert data_digest(made(points.clone(), classes.clone()), "train") == before
    for values in (points, classes):
        changed = values.clone()
        changed[40] += 1  # Where not all rows are read, every second one is.
        other = (changed, classes) if values is points else (points, changed)
        assert data_digest(made(*other), "train") != before


def test_of_data_that_a_class_of_the_user_s_holds_the_first_batch_counts() -> None:
    class Own:
        def __init__(self, last: int) -> None:
            self.batches, self.reads = [sleepy.rows(50), sleepy.rows(50, seed=last)], 0

        def __iter__(self) -> Iterator[Any]:
            self.reads += 1
            return iter(self.batches)

    read = Own(1)
    list(read)
    assert data_digest(read, "train") == data_digest(Own(1), "train") == data_digest(Own(2), "train")


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(*sleepy.rows(20), strict=True)


def test_data_without_a_length_has_a_digest() -> None:
    assert data_digest(torch.utils.data.DataLoader(Stream()), "train") is not None


@pytest.fixture
def graph_with_weights_outside(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.arange(512, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 512])],
        [weights],
    )
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    return tmp_path / "net.onnx"


def test_weights_that_are_stored_as_sparse_ones_count() -> None:
    one, other = (torch.nn.Linear(3, 2), torch.nn.Linear(3, 2))
    for each in (one, other):
        each.weight = torch.nn.Parameter(each.weight.detach().to_sparse())
    assert model_digest(Task(one, evaluate=[])) != model_digest(Task(other, evaluate=[]))
    assert model_digest(Task(one, evaluate=[])) == model_digest(Task(one, evaluate=[]))


def test_weights_beside_a_graph_count(graph_with_weights_outside: Path) -> None:
    task = Task(graph_with_weights_outside, evaluate=[])
    before = model_digest(task)
    assert model_digest(task) == before
    weights = graph_with_weights_outside.with_name("net.data")
    weights.write_bytes(weights.read_bytes()[::-1])
    assert model_digest(task) != before


def test_weights_that_are_missing_beside_a_graph_are_named(graph_with_weights_outside: Path) -> None:
    graph_with_weights_outside.with_name("net.data").unlink()
    with pytest.raises(InputError, match=r"net\.data is missing, and .*net\.onnx needs it: copy all"):
        model_digest(Task(graph_with_weights_outside, evaluate=[]))
