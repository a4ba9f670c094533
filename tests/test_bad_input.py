"""What users hand in by mistake: one sentence that names it and the remedy, through the doors that users take."""

from __future__ import annotations

import io
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import paring
from paring import registry
from paring.errors import BudgetError, InputError, ParingError, TaskError
from paring.techniques.base import GraphTechnique
from paring.techniques.fine_tune import FineTune
from paring.techniques.prune_channels import PruneChannels
from paring.types import Batch, CorpusMetric, Task
from tests import sleepy
from tests.command_line import HEAD, refused, typed
from tests.metered import Metered

POINTS, CLASSES = sleepy.rows(1500)


pytestmark = pytest.mark.usefixtures("short_comparisons")


def optimized(out: Path, task: Task, *techniques: Any, **options: Any) -> paring.Result:
    standard = {"time_limit_s": 120.0, "techniques": techniques or [sleepy.Cheapen()], "backends": [Metered()]}
    return paring.optimize(task, out=out, threads=1, progress=False, **{**standard, **options})


def refusal(out: Path, task: Task, *techniques: Any, **options: Any) -> str:
    """The one sentence with which a run refuses a task; it is bad input, so exit code 2."""
    with pytest.raises(ParingError) as error:
        optimized(out, task, *techniques, **options)
    sentence = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def told(*arguments: str | Path) -> str:
    """The sentence with which a typed command is refused."""
    return refused(typed(*arguments))


class Wraps(nn.Module):
    """The known network with its answer, or its input, changed."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.change = sleepy.network(), change
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (POINTS, "batch 0 of evaluate is a Tensor: give pairs (inputs, targets)"),
        ((POINTS, CLASSES, CLASSES), "batch 0 of evaluate is a tuple of 3: give pairs"),
        ({"x": POINTS, "labels": CLASSES}, "batch 0 of evaluate is a dict: give pairs"),
        ((3, CLASSES), "batch 0 of evaluate holds a int where a tensor belongs"),
        (({"x": (POINTS, POINTS)}, CLASSES), "batch 0 of evaluate holds a tuple where a tensor belongs"),
        ((POINTS, ["two"] * 1500), "batch 0 of evaluate has targets that are strings: give numbers"),
        ((POINTS, [None] * 1500), "batch 0 of evaluate has targets that are list objects: give numbers"),
        ((POINTS, [[1], [1, 2]]), "batch 0 of evaluate has targets of mixed shapes"),
        ((POINTS.bfloat16(), CLASSES), "batch 0 of evaluate holds bfloat16, which runtimes can't be handed"),
        (((POINTS, POINTS[:9]), CLASSES), "inputs of shape (1500, 6) and (9, 6): axis 0 of every input"),
        ((POINTS[:0], CLASSES[:0]), "evaluate is empty"),
        ((POINTS, CLASSES[:9]), "targets have shape (9,) and outputs (1500, 3)"),
    ],
    ids=lambda value: value[:44] if isinstance(value, str) else "",
)
def test_batches_that_are_no_pairs_of_tensors(tmp_path: Path, batch: Any, says: str) -> None:
    assert says in refusal(tmp_path, Task(sleepy.network(), [batch]))


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        ([1, 2, 3], "batch 0 of evaluate is a int: give pairs (inputs, targets)"),
        ("rows.npz", "batch 0 of evaluate is a str: give pairs (inputs, targets)"),
        ({"x": POINTS}, "batch 0 of evaluate is a str: give pairs (inputs, targets)"),
        ([None], "batch 0 of evaluate is a NoneType: give pairs (inputs, targets)"),
        ((POINTS, CLASSES), "batch 0 of evaluate is a Tensor: give pairs (inputs, targets)"),
        (sleepy.network(), "evaluate is a Linear and can't be iterated: pass a list of batches or a DataLoader"),
        (
            torch.utils.data.TensorDataset(POINTS, CLASSES),
            "batch 0 of evaluate has targets of shape (): axis 0 must be the rows of the batch; a DataLoader makes",
        ),
    ],
    ids=range(7),
)
def test_data_that_is_no_list_of_batches(tmp_path: Path, evaluate: Any, says: str) -> None:
    with pytest.raises(TaskError) as error:
        optimized(tmp_path, Task(sleepy.network(), evaluate))
    assert says in str(error.value)


class Later:
    """Good batches, then a bad one."""

    def __init__(self, bad: Any) -> None:
        self.bad = bad

    def __iter__(self) -> Iterator[Any]:
        yield from [(POINTS[:700], CLASSES[:700])] * 3
        if isinstance(self.bad, Exception):
            raise self.bad
        yield self.bad


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (OSError("gone.png\nis missing"), "evaluate failed after batch 3: OSError: gone.png is missing."),
        ((POINTS[:2], torch.tensor([0, 7])), "label 7 is out of range: the network has 3 classes."),
        ((POINTS[:2], None), "evaluate has no targets in batch 3"),
        (((POINTS[:2], POINTS[:2]), CLASSES[:2]), "evaluate changes its structure in batch 3"),
        (POINTS, "batch 3 of evaluate is a Tensor"),
    ],
    ids=["raises", "label", "no targets", "another structure", "no pair"],
)
def test_rows_that_go_wrong_after_the_first_batch(tmp_path: Path, bad: Any, says: str) -> None:
    assert says in refusal(tmp_path, Task(sleepy.network(), Later(bad)))
    assert not (tmp_path / "trials" / "trials.jsonl").exists()


def test_a_training_label_that_goes_wrong_later_ends_the_trainings_and_no_run(tmp_path: Path) -> None:
    bad = (POINTS[:8], torch.full((8,), 7))
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        copies = torch.eye(3).repeat(8, 1)
        model[0].weight.copy_(nn.functional.pad(copies, (0, 3)))  # type: ignore[operator, union-attr]
        model[0].bias.fill_(5.0)  # type: ignore[operator, union-attr]
        model[2].weight.copy_(copies.T)  # type: ignore[operator, union-attr]
    task = Task(model, [(POINTS, CLASSES)], train=Later(bad))
    # So few channels are left that training alone can mend it.
    trainings = FineTune(epochs=1), FineTune(epochs=2)
    result = optimized(tmp_path, task, PruneChannels(ratio=0.9), *trainings)
    assert result.status == "kept-original"
    says = "train holds the label 7, but the network has 3 classes (0 to 2)."
    (failed,) = (trial for trial in result.trials if "FineTune" in trial.recipe_text)
    assert (failed.outcome, failed.train_at_fault) == ("failed", True)
    assert says in failed.reason
    not_tried = {each["what"]: each["reason"] for each in result.values["not_tried"]}
    assert all(says in not_tried[str(training)] for training in trainings)


@pytest.mark.parametrize("train", [[(POINTS[:, :5], None)], [((POINTS, POINTS), None)]])
def test_training_rows_for_another_network(tmp_path: Path, train: list[Batch]) -> None:
    task = Task(sleepy.network(), [(POINTS, CLASSES)], train=train)
    assert "the network can't run on the first batch of train: " in refusal(tmp_path, task)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y: {"a": (y, y)}, "returns a dict that holds a tuple: return a tensor, a tuple of tensors or a dict"),
        (lambda y: y.bfloat16(), "returns bfloat16, which runtimes can't hand back"),
        (lambda y: (y, y), "accuracy needs one tensor of class scores, but the network returns a tuple: pass a"),
    ],
    ids=["nested", "bfloat16", "tuple"],
)
def test_answers_of_the_wrong_kind(tmp_path: Path, change: Callable[[Tensor], Any], says: str) -> None:
    assert says in refusal(tmp_path, Task(Wraps(change), [(POINTS, CLASSES)]))


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float()


def failing_on(part: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """A metric that fails on the rows in a file."""

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if part.exists() and np.abs(np.load(part)[:, :3] - outputs[0].numpy()).max(1).min() < 1e-4:
            raise KeyError("a class that was never seen")
        return right(outputs, targets)

    return metric


@pytest.mark.parametrize("split", ["selection", "certification"])
def test_a_metric_that_fails_on_later_rows(tmp_path: Path, split: str) -> None:
    batches = list(zip(POINTS.split(100), CLASSES.split(100), strict=True))
    metric = failing_on(tmp_path / "trials" / "data" / split / "input-0.npy")
    # Where nothing is faster, nothing is certified: this backend lets the technique be.
    sentence = refusal(tmp_path, Task(sleepy.network(), batches, metric=metric), backends=[sleepy.Sleepy()])
    assert re.search(r"the metric failed on \d+ rows with KeyError: 'a class that was never seen'\.", sentence)


def raising(rows: Any) -> float:
    raise ZeroDivisionError("no positives")


@pytest.mark.parametrize(
    ("reduce", "says"),
    [
        (raising, "reduce failed with ZeroDivisionError: no positives, on 1500 rows."),
        (lambda rows: rows.mean(0), "reduce returned shape (1,) for 1500 rows: return one number."),
        (lambda rows: None, "reduce failed with TypeError"),
        (lambda rows: float("nan"), "reduce gave nan for 1500 rows"),
        (lambda rows: rows.mean() if len(rows) > 374 else float("nan"), "reduce gave nan for 356 rows"),
    ],
    ids=["raises", "array", "none", "nan", "nan on parts"],
)
def test_a_reduce_that_breaks_its_contract(tmp_path: Path, reduce: Callable[[Any], float], says: str) -> None:
    metric = CorpusMetric(lambda outputs, targets: right(outputs, targets)[:, None], reduce)
    assert says in refusal(tmp_path, Task(sleepy.network(), [(POINTS, CLASSES)], metric=metric))
    assert not (tmp_path / "trials" / "trials.jsonl").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "net.onnx"}, "model is a str: pass an nn.Module or the pathlib.Path of an .onnx."),
        ({"model": nn.Linear}, "model is a type: pass an nn.Module"),
        ({"evaluate": None}, "evaluate is a NoneType and can't be iterated: pass a list of batches or a DataLoader."),
        ({"train": 3}, "train is a int and can't be iterated"),
        ({"metric": "accuracy"}, "metric='accuracy' is not callable"),
        ({"loss": 0.5}, "loss=0.5 is not callable"),
        ({"name": Path("x")}, "is a PosixPath: pass a str."),
        ({"score_range": 1.0}, "score_range=1.0 must be two finite numbers, the lower first."),
        ({"score_range": ("0", "1")}, "score_range=('0', '1') must be two finite numbers"),
        ({"score_range": (1.0, 0.0)}, "score_range=(1.0, 0.0) must be two finite numbers"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_fields_of_the_wrong_type(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as error:
        Task(**{"model": sleepy.network(), "evaluate": [], **fields})
    assert says in str(error.value)


def test_a_corpus_metric_is_made_of_functions() -> None:
    with pytest.raises(TaskError, match=r"reduce='mean' is not callable"):
        CorpusMetric(right, "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"task": sleepy.network()}, "task is a Linear: pass paring.Task(model, evaluate=[...])."),
        ({"budget": 0.01}, "budget=0.01 is no Budget: pass for example Budget(max_drop=0.01)."),
        ({"budget": 0}, "budget=0 is no Budget"),
        ({"budget": {"max_drop": 0.01}}, "budget={'max_drop': 0.01} is no Budget"),
        ({"out": 3}, "out=3 is no folder: pass its path, a str or a pathlib.Path."),
        (
            {"time_limit_s": "20m"},
            "time_limit_s='20m' must be a finite number of at least 10 seconds, for example 1200.",
        ),
        ({"time_limit_s": 10**400}, "must be a finite number of at least 10 seconds"),
        ({"time_limit_s": True}, "time_limit_s=True must be a finite number of at least 10 seconds"),
        ({"threads": "2"}, "threads='2' must be a whole number of 1 or more"),
        ({"threads": 1.5}, "threads=1.5 must be a whole number of 1 or more"),
        ({"threads": True}, "threads=True must be a whole number of 1 or more"),
        ({"seed": True}, "seed=True must be a whole number of 0 or more"),
        ({"executor": 4}, "executor=4 is not callable: pass a function like `map`, or none."),
    ],
    ids=str,
)
def test_settings_of_another_kind(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    given = {"task": sleepy.task(), "out": tmp_path, "progress": False, **wrong}
    with pytest.raises(InputError, match=re.escape(says)):
        paring.optimize(given.pop("task"), given.pop("budget", None), **given)
    assert not list(tmp_path.iterdir())


class Named(NamedTuple):
    logits: Tensor


def test_outputs_that_no_archive_holds(tmp_path: Path) -> None:
    class Naming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = sleepy.network()

        def forward(self, x: Tensor) -> Named:
            return Named(self.inner(x))

    task = Task(Naming().eval(), [(POINTS, CLASSES)], metric=lambda out, y: (out[0].argmax(-1) == y).float())
    assert "the network can't be written as an archive" in refusal(tmp_path, task)


@pytest.mark.parametrize("limit_s", [float("inf"), float("nan"), -1.0, 1.0])
def test_a_time_limit_that_is_no_time(tmp_path: Path, limit_s: float) -> None:
    with pytest.raises(BudgetError, match=rf"time_limit_s={limit_s} must be a finite number of at least 10 seconds"):
        optimized(tmp_path, sleepy.task(), time_limit_s=limit_s)


@pytest.mark.parametrize("limit", ["inf", "nan", "9" * 400 + "h"])
def test_a_typed_time_limit_that_is_no_time(tmp_path: Path, limit: str) -> None:
    (tmp_path / "task.py").write_text(HEAD + "task = sleepy.task()")
    sentence = told("optimize", tmp_path / "task.py", "--out", tmp_path / "out", "--time-limit", limit)
    assert "is not a time" in sentence or "time_limit_s=inf must be a finite number" in sentence


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_is_none(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(BudgetError, match=rf"seed={seed} must be a whole number of 0 or more"):
        optimized(tmp_path, sleepy.task(), seed=seed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pass", "has no 'task': name a paring.Task or a function that returns one."),
        ("one, two = sleepy.task(), sleepy.task()", "has no 'task'; it has one, two, so type "),
        ("import sys\nsys.exit('no data')", "task.py:6 raised SystemExit: no data."),
        ("raise ValueError('two\\nlines')", "task.py:5 raised ValueError: two lines."),
        ("def broken(:", "raised SyntaxError: "),
        ("task = lambda: 3", "'task' in"),
    ],
    ids=["none", "two", "exit", "two lines", "syntax", "a number"],
)
def test_a_task_file_without_a_task(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "task.py").write_text(HEAD + text)
    assert says in told("optimize", tmp_path / "task.py", "--out", tmp_path / "out")


def test_a_task_file_may_have_the_name_of_a_loaded_module(tmp_path: Path) -> None:
    before = sys.modules["json"]
    (tmp_path / "json.py").write_text(HEAD + "raise ValueError('ours')")
    assert "json.py:5 raised ValueError: ours." in told("optimize", tmp_path / "json.py", "--out", tmp_path / "out")
    assert sys.modules["json"] is before


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of one input `x` of 6 numbers a row."""
    from paring.graph.export import export_onnx, export_program, signature_of

    path = tmp_path_factory.mktemp("net") / "net.onnx"
    inputs = {"input": POINTS[:2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = export_onnx(export_program(sleepy.network(), inputs), signature_of(sleepy.network(), inputs))
    onnx.save(graph, path)
    return path


def archive(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


GOOD = {"input": POINTS.numpy(), "targets": CLASSES.numpy()}


def flipped(content: bytes) -> bytes:
    """One byte in the middle of the data is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "can't be read as an .npz"),
        (b"no archive at all", "can't be read as an .npz"),
        (archive(**GOOD)[:2000], "can't be read as an .npz without pickled objects (BadZipFile"),
        (flipped(archive(**GOOD)), "can't be read as an .npz without pickled objects (BadZipFile: Bad CRC"),
        (pickle.dumps(GOOD), "can't be read as an .npz without pickled objects"),
        (npy(GOOD["input"]), "can't be read as an .npz"),
        (archive(input=np.array([{}] * 3), targets=np.zeros(3)), "can't be read as an .npz without pickled objects"),
        (archive(input=GOOD["input"]), "lacks 'targets': it holds input."),
        (archive(input=GOOD["input"][:7], targets=GOOD["targets"]), "unequal numbers of rows (input 7, targets 1500)"),
        (archive(input=GOOD["input"], targets=np.array("one")), "unequal numbers of rows (input 1500, targets 0)"),
        (archive(input=GOOD["input"], targets=np.array(["a"] * 1500)), "holds arrays that are no numbers"),
        (archive(input=GOOD["input"][:0], targets=GOOD["targets"][:0]), "evaluate is empty"),
        (archive(**{**GOOD, "input": GOOD["input"].astype(np.float64)}), "gives float64 of shape (64, 6) for the"),
        (archive(**{**GOOD, "input": GOOD["input"][:, :5]}), "of shape (64, 5) for the input 'input', but "),
    ],
    ids=range(14),
)
def test_a_data_file_that_cannot_be_used(tmp_path: Path, net: Path, content: bytes, says: str) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    sentence = told("optimize", net, "--data", tmp_path / "rows.npz", "--out", tmp_path / "out")
    assert says in sentence


def test_data_beside_a_task_file(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(HEAD + "task = sleepy.task()")
    sentence = told("optimize", tmp_path / "task.py", "--data", tmp_path / "rows.npz", "--out", tmp_path / "out")
    assert "goes with an .onnx graph" in sentence


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"y": POINTS}, "evaluate lacks the input 'input' of"),
        ((POINTS, POINTS), "evaluate gives 2 inputs, but "),
    ],
    ids=["names", "number"],
)
def test_rows_for_another_graph(tmp_path: Path, net: Path, inputs: Any, says: str) -> None:
    assert says in refusal(tmp_path / "out", Task(net, [(inputs, CLASSES)]))


@pytest.mark.parametrize(
    ("techniques", "named"),
    [
        ("PruneChannels", "PruneChannels"),
        ("PruneWeights(0.5),FineTune", "PruneWeights, FineTune"),
        ("PruneChannels(0.5) + StaticQuantization, RemoveBlocks(count=1)", "RemoveBlocks, PruneChannels"),
    ],
)
@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_techniques_of_modules_for_a_graph(
    tmp_path: Path, net: Path, techniques: str, named: str, plan: list[str]
) -> None:
    (tmp_path / "rows.npz").write_bytes(archive(**GOOD))
    run = ["optimize", net, "--data", tmp_path / "rows.npz", "--out", tmp_path / "out", *plan]
    sentence = told(*run, "--techniques", techniques)
    assert f"net.onnx is a graph, and what was asked for begins with a change of the nn.Module ({named}): " in sentence
    found = {name: registry.find("technique", name) for name in registry.names("technique")}
    assert sentence.endswith(f"or choose from {', '.join(n for n in found if issubclass(found[n], GraphTechnique))}.")


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\xffno graph")
    data = [(POINTS, CLASSES)]
    assert "net.onnx is not an ONNX graph: " in refusal(tmp_path / "out", Task(tmp_path / "net.onnx", data))
    assert "no such model file: " in refusal(tmp_path / "out", Task(tmp_path / "other.onnx", data))
