"""The main job on a machine that is fully known: what comes out, what is on disk, and what goes wrong alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import paring
from paring import registry
from paring.artifact import Artifact
from paring.artifact.files import JsonLines
from paring.backends.isolated import Deployment
from paring.backends.probe import Probe
from paring.certify import certify
from paring.errors import BackendError, BudgetError, ExportError, OutputError
from paring.flow import conclusion
from paring.flow.folder import RunFolder
from paring.flow.originals import Originals
from paring.flow.request import Executor
from paring.flow.result import Result
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.techniques.base import GraphTechnique, Technique, described
from paring.tune import Ranking, Trial
from paring.tune.candidate import Stage, digest
from paring.tune.trial import Outcome
from paring.types import Budget, CorpusMetric, Task
from tests import sleepy
from tests.sleepy_backend import Drowsy

pytestmark = pytest.mark.usefixtures("short_comparisons")

TIME_LIMIT_S = 300.0
GOOD, BROKEN, WORSE = sleepy.Cheapen(2.0), sleepy.Cheapen(1.0, damage=0.4), sleepy.Cheapen(24.0)


SLOWER = Comparison(0.8, 0.75, 0.85, Latency(10, 10, 10, 100, 9), Latency(8, 8, 8, 125, 9), 1000, 1000, 9)
ALL = (GOOD, BROKEN, WORSE, sleepy.Crash(), sleepy.Nothing(), sleepy.Raise())


def found(
    out: Path, *techniques: Technique, task: Task | None = None, executor: Executor | None = None, **budget: Any
) -> Result:
    return paring.optimize(
        task or sleepy.task(),
        Budget(**budget),
        out=out,
        time_limit_s=TIME_LIMIT_S,
        techniques=techniques,
        backends=[sleepy.Absent(), sleepy.Sleepy()],
        threads=1,
        executor=executor,
        progress=False,
    )


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory, short_comparisons: None) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("improved")
    return found(out, *ALL), out


def test_labels_that_no_loss_can_read_are_no_matter_where_nothing_trains(tmp_path: Path) -> None:
    task = sleepy.task()
    unreadable = [(inputs, {"boxes": targets}) for inputs, targets in task.evaluate]
    assert found(tmp_path, GOOD, task=replace(task, train=unreadable)).status == "improved"


def test_the_fastest_that_keeps_the_accuracy_is_chosen(improved: tuple[Result, Path]) -> None:
    result, out = improved
    assert result.status == "improved"
    assert result.values["best"]["recipe_text"] == "Cheapen"
    assert 1 < result.values["speedup"]["low"] <= result.values["speedup"]["ratio"]
    assert json.loads((out / "result.json").read_text()) == result.values


def test_the_certificate_holds_the_budget_and_shows_its_evidence(improved: tuple[Result, Path]) -> None:
    certificate = improved[0].values["certificate"]
    assert 0 < improved[0].values["first_certified_s"] <= improved[0].values["wall_time_s"]
    assert certificate["drop"] == 0
    assert 0 < certificate["upper_bound"] <= 0.01
    assert certificate["n"] == 1125
    assert certificate["finalists"] == 3
    assert certificate["smallest_certifiable_drop"] <= 0.01


def test_what_was_beaten_is_told_alike_in_the_answer_and_in_the_table(improved: tuple[Result, Path]) -> None:
    values = improved[0].values
    assert values["baselines"] == [values["baseline"]]
    assert values["best"]["at_length"]
    assert values["baseline"]["at_length"]
    assert not any(trial.at_length for trial in improved[0].trials)
    assert values["speedup_over_source"] == values["speedup"], "they met once, and two figures would differ"


def test_each_candidate_is_a_row_with_its_outcome(improved: tuple[Result, Path]) -> None:
    trials = {trial.recipe_text: trial for trial in improved[0].trials if trial.recipe}
    assert trials["Cheapen"].outcome == "measured"
    assert trials["Cheapen(cost_ms=24.0)"].outcome == "measured"
    assert trials["Cheapen(cost_ms=1.0, damage=0.4)"].drop == pytest.approx(1 / 3, abs=0.1)
    assert trials["Crash"].outcome == "failed"
    assert "exit code 7" in trials["Crash"].reason
    assert trials["Nothing"].outcome == "no-change"
    assert "too small to be worth it" in trials["Nothing"].reason
    assert trials["Raise"].outcome == "failed"
    assert "a bug of the author's" in trials["Raise"].reason


def test_a_missing_backend_is_said_with_its_reason(improved: tuple[Result, Path]) -> None:
    assert {"backend": "absent", "reason": "it was never installed: pip install absent."} in improved[0].values[
        "unavailable"
    ]


def test_the_artifact_runs_and_verifies(improved: tuple[Result, Path]) -> None:
    result, out = improved
    assert result.best is not None
    artifact = Artifact.open(out / "best")
    assert artifact.manifest.task == "points"
    assert artifact.manifest.certificate is not None
    inputs, outputs = artifact.golden()
    assert np.allclose(inputs["input"][:, :3], outputs["output"], atol=1e-5)
    assert artifact.manifest.budget == Budget()
    found = paring.load(out, backends=[sleepy.Sleepy]).run(inputs)
    assert (found["output"] == outputs["output"]).all()
    checks = paring.verify(out, time_limit_s=1.0, backends=[sleepy.Sleepy])
    assert checks["holds"], checks


def test_the_family_ends_with_the_original(improved: tuple[Result, Path]) -> None:
    names = [artifact.manifest.recipe_text for artifact in improved[0].frontier]
    assert names == ["Cheapen", "original"]
    assert [artifact.path.name for artifact in improved[0].frontier] == ["01", "02"]


def test_the_report_tells_the_answer(improved: tuple[Result, Path]) -> None:
    page = improved[0].report.read_text()
    assert "Cheapen" in page
    assert "it was never installed" in page


def test_the_sample_that_reports_are_tested_with_is_as_a_run_writes_it(improved: tuple[Result, Path]) -> None:
    sample = Path(__file__).parent / "data" / "report"
    told, written = (json.loads((folder / "result.json").read_text()) for folder in (sample, improved[1]))
    assert list(told) == list(written)
    for name in ("best", "baseline", "budget", "certificate"):
        assert list(told[name]) == list(written[name])
    rows, (real, *_) = (JsonLines(folder / "trials" / "trials.jsonl").read() for folder in (sample, improved[1]))
    assert told["trials"] == Counter(row["outcome"] for row in rows)
    for number, row in enumerate(rows):
        assert list(row) == list(real)
        assert row["number"] == number
        assert row["key"] == digest([row["recipe"], row["backend"]])
        assert row["stage"] in get_args(Stage)
        assert row["outcome"] in get_args(Outcome)
        recipe = tuple(technique_of(**step) for step in row["recipe"])
        assert described(recipe) == row["recipe_text"]
        backend = registry.find("backend", row["backend"]["name"]).with_options(row["backend"]["options"])
        assert backend.format == "onnx" or not any(isinstance(step, GraphTechnique) for step in recipe)


def technique_of(technique: str, settings: dict[str, Any]) -> Technique:
    kind = registry.find("technique", technique)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


def test_a_finished_run_repeats_nothing_and_answers_the_same(improved: tuple[Result, Path], tmp_path: Path) -> None:
    first, source = improved
    out = tmp_path / "again"
    shutil.copytree(source, out)
    log = (out / "trials" / "trials.jsonl").read_text()
    second = found(out, *ALL)
    assert (out / "trials" / "trials.jsonl").read_text() == log
    assert second.values["best"]["recipe_text"] == first.values["best"]["recipe_text"]
    assert second.values["certificate"] == first.values["certificate"]


def test_what_no_later_run_needs_is_gone_when_a_run_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept, beaten = sleepy.Counted(file=str(tmp_path / "kept")), sleepy.Blunt(file=str(tmp_path / "beaten"))
    first = found(out, kept, beaten)
    assert [artifact.name for artifact in (out / "trials" / "modules").iterdir()] == ["original"]
    again = found(out, kept, beaten)
    assert again.values["best"]["recipe_text"] == first.values["best"]["recipe_text"] == str(kept)
    assert [Path(technique.file).read_text() for technique in (kept, beaten)] == ["applied\n"] * 2


@contextmanager
def refused(name: str) -> Iterator[None]:
    """A disk that refuses to write files whose path holds `name`."""
    real = open

    def opened(file: Any, mode: str = "r", *others: Any, **settings: Any) -> Any:
        if name in str(file) and set(mode) & set("wax+"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return real(file, mode, *others, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", opened)
        patch.setattr("io.open", opened)
        yield


KILLED = """
import os, signal, sys
from pathlib import Path
from tests import test_optimize as t

def dies(run, asked, done=[]):
    for candidate in asked:
        done.append(run(candidate))
        if len(done) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        yield done[-1]

t.found(Path(sys.argv[1]), *t.ALL, executor=dies)
"""


def test_whatever_stops_a_run_it_goes_on_and_answers_the_same(
    improved: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    root = Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    probes = Probe("absent", "gone"), Probe("sleepy", None)
    monkeypatch.setattr("paring.flow.prepare.probe", lambda *_, **__: probes)
    log = JsonLines(out / "trials" / "trials.jsonl")
    times = [{row["key"]: row["wall_time_s"] for row in log.read()}]
    assert len(times[0]) == 3
    for name in ("trials.jsonl", "/looks/"):
        with refused(name), pytest.raises(OutputError, match=r"can't be written \(No space left on device\): choose"):
            found(out, *ALL)
        times.append({row["key"]: row["wall_time_s"] for row in log.read()})
        assert times[-1].items() >= times[-2].items(), "a finished trial was lost or repeated"
    result = found(out, *ALL)
    assert result.values["best"]["recipe_text"] == improved[0].values["best"]["recipe_text"]
    assert result.values["certificate"] == improved[0].values["certificate"]
    keys = [row["key"] for row in log.read()]
    assert len(keys) == len(set(keys))
    assert set(keys) == {trial.key for trial in improved[0].trials}
    assert {row["key"]: row["wall_time_s"] for row in log.read()}.items() >= times[-1].items()


def test_another_question_in_the_same_folder_is_refused(improved: tuple[Result, Path]) -> None:
    with pytest.raises(OutputError, match=r"another max_drop \(0.01 there, 0.02 here\), techniques: choose"):
        found(improved[1], GOOD, max_drop=0.02)


def test_two_runs_on_one_folder(improved: tuple[Result, Path]) -> None:
    with RunFolder(improved[1]).locked(), pytest.raises(OutputError, match="is in use by another run"):
        found(improved[1], GOOD)


def test_what_nothing_makes_faster_is_kept_with_the_reason(tmp_path: Path) -> None:
    result = found(tmp_path, WORSE, BROKEN)
    assert result.status == "kept-original"
    assert "no candidate that keeps the accuracy by enough to be certified was faster" in result.values["reason"]
    assert result.best is not None
    assert result.best.manifest.recipe_text == "original"
    assert result.values["speedup"]["ratio"] == 1


def test_an_original_that_is_slower_at_length_than_the_model_as_it_came_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick figures put drowsy in front; at length the model as it came, on sleepy, is the faster one."""
    seen = Originals.of

    def turned(trials: Sequence[Trial], ranking: Ranking, time_limit_s: float) -> Originals:
        found = seen(trials, ranking, time_limit_s)
        drowsy_first = sorted(found.timed, key=lambda t: t.backend["name"])
        return replace(found, timed=tuple(drowsy_first), rivals=tuple(drowsy_first))

    def at_length(one: Deployment, other: Deployment, *_: object, **__: object) -> Comparison:
        assert (one.backend.name, other.backend.name) == ("sleepy", "drowsy")
        return replace(SLOWER, ratio=1.25, low=1.2, high=1.3)

    monkeypatch.setattr(Originals, "of", turned)
    monkeypatch.setattr(Originals, "nearly_fastest", lambda self, _: [self.fastest])
    monkeypatch.setattr(conclusion, "compare", at_length)
    kept = paring.optimize(
        sleepy.task(),
        out=tmp_path,
        time_limit_s=TIME_LIMIT_S,
        techniques=[BROKEN],
        backends=[sleepy.Sleepy(), Drowsy()],
        threads=1,
        progress=False,
    )
    assert kept.status == "kept-original"
    assert kept.values["best"]["backend_text"] == "sleepy"
    assert kept.values["speedup_over_source"] is None
    table = {point["backend_text"]: point for point in kept.values["baselines"]}
    assert table["sleepy"] == kept.values["best"] == kept.values["baseline"]
    assert table["sleepy"]["latency_ms"]["p50"] == SLOWER.candidate.p50_ms
    assert table["drowsy"]["latency_ms"]["p50"] == pytest.approx(1.25 * SLOWER.candidate.p50_ms)
    assert all(point["at_length"] for point in table.values())


def test_a_budget_nobody_meets_gives_the_nearest_points(tmp_path: Path) -> None:
    result = found(tmp_path, GOOD, BROKEN, max_latency_ms=0.5)
    assert result.status == "infeasible"
    assert result.best is None
    assert "latency" in result.reason
    nearest = {point["recipe_text"]: point["misses"] for point in result.values["nearest"]}
    assert "drop" in nearest["Cheapen(cost_ms=1.0, damage=0.4)"]
    assert "latency" in nearest["Cheapen"]


def test_a_corpus_metric_is_certified_approximately(tmp_path: Path) -> None:
    def statistics(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        right = (outputs.argmax(1) == targets).float()
        return torch.stack([right, torch.ones_like(right)], 1)

    def share(rows: Any) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    points, classes = sleepy.rows(1500)
    task = Task(sleepy.network(), [(points, classes)], metric=CorpusMetric(statistics, share))
    result = found(tmp_path, GOOD, task=task, max_drop=0.02)
    assert result.values["certificate"]["method"] == "bootstrap"
    assert result.status == "improved"


def test_too_few_rows_are_said_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as error:
        found(tmp_path, GOOD, task=sleepy.task(40))
    assert "can't be certified with 30 rows: the smallest drop that they can certify is 0." in str(error.value)
    assert "Give evaluate at least" in str(error.value)
    assert not (tmp_path / "trials" / "trials.jsonl").exists()


def test_the_bound_can_be_made_again_from_what_the_certificate_says(improved: tuple[Result, Path]) -> None:
    told = improved[0].values["certificate"]
    lost, won = (np.arange(told["n"]) < told["regressions"]), (np.arange(told["n"])[::-1] < told["fixes"])
    again = certify(lost.astype(float), won.astype(float), confidence=1 - told["share"] * (1 - told["confidence"]))
    assert told["upper_bound"] == pytest.approx(again.upper_bound)


def test_looks_never_cost_more_than_the_confidence_leaves(improved: tuple[Result, Path]) -> None:
    looks = json.loads((improved[1] / "trials" / "finalists.json").read_text())["looks"]
    assert looks
    assert sum({look["key"]: look["share"] for look in looks}.values()) <= 1
    assert [look["share"] for look in looks] == [look["share"] for look in improved[0].values["finalists"]]


def test_where_no_look_is_left_that_is_the_reason(improved: tuple[Result, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(improved[1], out)
    file = out / "trials" / "finalists.json"
    ledger = json.loads(file.read_text())
    ledger["looks"] = [{**ledger["looks"][0], "key": "of an earlier run", "share": 1.0}]
    file.write_text(json.dumps(ledger))
    result = found(out, *ALL)
    assert result.status == "kept-original"
    assert result.reason.startswith(
        "no look at the certification rows is left for Cheapen on sleepy: give evaluate new"
    )


def test_techniques_reach_no_certification_row(tmp_path: Path) -> None:
    spy = sleepy.Spy(file=str(tmp_path / "observed.npy"))
    found(tmp_path / "out", spy)
    observed = {row.tobytes() for row in np.load(spy.file)}
    data = tmp_path / "out" / "trials" / "data"
    assert observed <= {row.tobytes() for row in np.load(data / "selection" / "input-0.npy")}
    assert not observed & {row.tobytes() for row in np.load(data / "certification" / "input-0.npy")}


def test_a_backend_that_refuses_the_original_is_a_row_and_the_next_one_is_used(tmp_path: Path) -> None:
    result = paring.optimize(
        sleepy.task(),
        out=tmp_path,
        time_limit_s=TIME_LIMIT_S,
        techniques=[GOOD],
        backends=[sleepy.Refuses(), sleepy.Sleepy()],
        threads=1,
        progress=False,
    )
    assert result.status == "improved"
    refused = [trial for trial in result.trials if trial.backend_text == "refuses"]
    assert refused
    assert all(trial.outcome == "failed" and "does not like it" in trial.reason for trial in refused)


def test_no_backend_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no backend can run this network") as error:
        paring.optimize(
            sleepy.task(), out=tmp_path, backends=[sleepy.Refuses(), sleepy.Absent()], threads=1, progress=False
        )
    assert "does not like it" in str(error.value)
    assert "was never installed" in str(error.value)


def test_an_export_that_answers_differently_is_refused(tmp_path: Path) -> None:
    class Counts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] + (1.0 if torch.compiler.is_exporting() else 0.0)

    points, classes = sleepy.rows(1500)
    with pytest.raises(ExportError, match="answers differently from the module"):
        found(tmp_path, GOOD, task=Task(Counts().eval(), [(points, classes)]))
