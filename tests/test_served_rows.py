"""What is certified is what is served: batches of the served size, rows that do not depend on their neighbours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import paring
from paring.artifact import Artifact
from paring.backends.isolated import IsolatedSession
from paring.data.rows import write_rows
from paring.errors import InputError, TaskError
from paring.flow.result import Result
from paring.flow.verify import verify
from paring.measure.agreement import neighbour_effect
from paring.tune import Trial
from paring.types import Budget, Task
from tests import sleepy
from tests.faulty_backends import Faulty


def optimized(out: Path, task: Task, **options: Any) -> Result:
    options = {"backends": [sleepy.Sleepy()], "techniques": [], **options}
    return paring.optimize(task, out=out, time_limit_s=300, threads=1, progress=False, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, short_comparisons: None) -> Iterator[tuple[Result, Path]]:
    """A run for batches of SERVED_ROWS whose trials come from two threads."""
    out = tmp_path_factory.mktemp("served")
    techniques = [
        *(sleepy.Alone(20.0 + i, file=str(out / "busy")) for i in range(2)),  # First: both threads begin with them.
        sleepy.Cheapen(2.0),
        sleepy.Mix(1.0),
    ]
    with ThreadPoolExecutor(2) as pool:
        budget = Budget(batch_size=sleepy.SERVED_ROWS, max_drop=0.2)
        options = {"backends": [sleepy.Offset()], "techniques": techniques, "executor": pool.map}
        yield optimized(out, sleepy.task(), budget=budget, **options), out


def trial_of(result: Result, name: str) -> Trial:
    return next(trial for trial in result.trials if trial.recipe_text.startswith(name))


def test_scores_are_of_batches_of_the_served_size(served: tuple[Result, Path]) -> None:
    points, classes = sleepy.rows(1500)
    shifted = points[:, :3] + sleepy.OFFSET * torch.eye(1, 3)
    lost = float((shifted.argmax(1) != classes).float().mean())
    assert lost > 0.01
    assert trial_of(served[0], "Cheapen").drop == pytest.approx(lost, abs=0.02)
    assert served[0].values["certificate"]["drop"] == pytest.approx(lost, abs=0.01)


def test_golden_outputs_are_of_batches_of_the_served_size(served: tuple[Result, Path]) -> None:
    inputs, outputs = Artifact.open(served[1] / "best").golden()
    expected = inputs["input"][:, :3] + sleepy.OFFSET * np.eye(1, 3)
    np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)


def test_verify_asks_in_batches_of_the_served_size(served: tuple[Result, Path], tmp_path: Path) -> None:
    shutil.copytree(served[1] / "best", tmp_path / "best")
    checks = verify(tmp_path / "best", backends=[sleepy.Offset])["checks"]
    golden = next(check for check in checks if check["what"] == "golden outputs")
    assert golden["here"] == "0.00%"


def test_a_candidate_that_mixes_rows_fails_with_the_reason(served: tuple[Result, Path]) -> None:
    trial = trial_of(served[0], "Mix")
    assert trial.outcome == "failed"
    assert "when a row is run alone" in trial.reason


def test_trials_of_a_thread_pool_take_turns_and_are_all_on_disk(served: tuple[Result, Path]) -> None:
    result, out = served
    alone = [trial for trial in result.trials if trial.recipe_text.startswith("Alone")]
    assert [trial.outcome for trial in alone] == ["measured"] * 2, [trial.reason for trial in alone]
    logged = [json.loads(line)["key"] for line in (out / "trials" / "trials.jsonl").read_text().splitlines()]
    assert sorted(logged) == sorted({trial.key for trial in result.trials})
    assert result.values["best"]["recipe_text"] == "Cheapen"


def test_a_pool_of_processes_is_refused(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(InputError, match="pass the map of a ThreadPoolExecutor"):
        optimized(tmp_path, sleepy.task(), executor=pool.map)


class Mixes(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :3]
        return torch.softmax(x, 0) if self.how == "softmax" else x - x.mean(0)


@pytest.mark.parametrize(("how", "batch_size"), [("softmax", 8), ("mean", 1)])
def test_a_network_that_mixes_rows_is_refused_with_the_remedy(how: str, batch_size: int, tmp_path: Path) -> None:
    points, classes = sleepy.rows(1500)
    task = Task(Mixes(how).eval(), [(points, classes)])
    with pytest.raises(TaskError, match="when a row is run alone and not in a batch: let no operation mix the rows"):
        optimized(tmp_path, task, budget=Budget(batch_size=batch_size))


@pytest.mark.parametrize(
    ("fault", "batch_size", "effect"), [("", 1, 0.0), ("", 5, 0.0), ("batch", 1, 0.5), ("batch", 5, 0.8)]
)
def test_the_effect_of_neighbours_is_measured(fault: str, batch_size: int, effect: float, tmp_path: Path) -> None:
    rows = write_rows([(torch.rand(20, 2), torch.zeros(20))], tmp_path, ("x",))
    with IsolatedSession(Faulty(fault), Path("none.onnx"), threads=1) as session:
        assert neighbour_effect(session, rows, batch_size) == pytest.approx(effect)
