"""A run that is cut anywhere goes on as if it had not been: on a made-up machine, through all stages of a search."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from paring.backends.probe import Probe
from paring.certify import Certificate
from paring.data.split import Splits
from paring.flow import finalists
from paring.flow.choosing import Choosing, Winner
from paring.flow.clock import RunClock
from paring.flow.folder import RunFolder
from paring.flow.hunt import Hunt
from paring.flow.ledger import Finalist
from paring.flow.originals import Originals
from paring.flow.prepare import Prepared
from paring.flow.request import Request
from paring.measure.compare import Comparison
from paring.measure.latency import Latency
from paring.report.progress import Silent
from paring.techniques.base import Recipe, Technique
from paring.tune import Candidate, Search, Trial
from tests.worlds import Gentle, Int, Smooth, Teach, Without, World, world

LIMIT_S = 900.0
LOOK_S = 3.0
ANYTHING: Any = None


@dataclass
class Clock:
    """Stands in for the module `time`."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Disk:
    """What a process leaves when it is killed: the folder's files, and the networks that were trained."""

    files: dict[str, bytes]
    trained: tuple[Recipe, ...]

    def restored(self, out: Path) -> Path:
        for name, content in self.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        return out


@dataclass(frozen=True)
class Run:
    """What a process did, and what lay on disk whenever that had changed; `torn` ends with a network and no trial."""

    asked: list[Candidate]
    tried: list[str]
    rows: list[dict[str, Any]]
    looks: list[Finalist]
    kept: list[Candidate]
    winner: Winner | str
    disks: list[Disk]
    torn: list[Disk]
    notes: list[str]

    def settings(self, kind: type[Technique], name: str) -> set[Any]:
        """The values of a setting in all that was asked for."""
        techniques = [technique for candidate in self.asked for technique in candidate.recipe]
        return {technique.settings()[name] for technique in techniques if isinstance(technique, kind)}

    @property
    def answer(self) -> Any:
        """As plain values, which a file would hold."""
        if isinstance(self.winner, str):
            return self.winner
        return json.loads(json.dumps(asdict(self.winner)))


@dataclass
class Machine:
    """Runs candidates of a world, as a TrialRunner would; a graph of the network is all that it has of networks."""

    there: World
    clock: Clock
    folder: RunFolder
    tried: list[str] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    torn: list[Disk] = field(default_factory=list)

    def run(self, candidate: Candidate, number: int) -> Trial:
        self.note()
        self.tried.append(candidate.key)
        trial = self.there.measure(candidate, number)
        self.clock.now_s += trial.wall_time_s
        if set(self.disks[-1].trained) != set(self.there.trained):
            self.torn.append(replace(self.disks[-1], trained=tuple(self.there.trained)))
        times_s = [4.0 * t.epochs if isinstance(t, Teach) else 0.0 for t in candidate.recipe]
        return replace(trial, coverage=[{"apply_s": spent_s} for spent_s in times_s])

    def note(self) -> None:
        """A process may be killed here."""
        files = {str(f.relative_to(self.folder.root)): f.read_bytes() for f in self.folder.root.rglob("*.json*")}
        if not self.disks or files != self.disks[-1].files:
            self.disks.append(Disk(files, tuple(self.there.trained)))

    def original_graph(self) -> onnx.ModelProto:
        return self.there.scene.graph

    def forget(self, seen: object, kept: object) -> None:
        pass

    def compare(self, one: Trial, other: Trial, time_limit_s: float) -> Comparison:
        self.note()
        assert one.speedup is not None
        assert other.speedup is not None
        ratio = one.speedup.ratio / other.speedup.ratio
        ours, theirs = (Latency(1 / t.ratio, 1.0, 1.0, 1.0, 1) for t in (one.speedup, other.speedup))
        return Comparison(ratio, ratio * 0.99, ratio * 1.01, ours, theirs, 1000, 1000, 10)


class Noting(Silent):
    """Keeps the notes that a run leaves on the screen."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass(frozen=True)
class Watched(RunFolder):
    """Notes each moment at which a trial has just been written."""

    machine: list[Machine] = field(default_factory=list)

    def append(self, trial: Trial) -> None:
        super().append(trial)
        self.machine[0].note()


def prepared(machine: Machine, limit_s: float) -> Prepared:
    """As `prepare` leaves it to the search."""
    scene, folder = machine.there.scene, machine.folder
    request = Request(
        scene.job.task,
        scene.budget,
        folder.root,
        limit_s,
        techniques=scene.techniques,
        backends=scene.backends,
        threads=1,
    )
    clock, ledger = RunClock(limit_s), folder.ledger_at("rows", fresh=False)
    finished = folder.begin({"question": 1}, fresh=False)
    clock.reserve(LOOK_S)
    clock.resume([trial.elapsed_s for trial in finished], [look.elapsed_s for look in ledger.looks])
    certification: Any = range(7000)
    networks: Any = machine
    return Prepared(
        request=request,
        folder=folder,
        clock=clock,
        job=scene.job,
        networks=networks,
        splits=Splits(ANYTHING, certification, "rows"),
        probes=tuple(Probe(backend.name, None, precisions=("f32",)) for backend in scene.backends),
        ledger=ledger,
        finished=finished,
        original=ANYTHING,
        original_scores=np.zeros(1),
        pace=ANYTHING,
        workload=ANYTHING,
        smallest_certifiable_drop=0.001,
    )


@dataclass
class Workshop:
    """A world with its clock, in which runs are done one after the other."""

    clock: Clock

    def run(self, out: Path, disk: Disk | None = None, limit_s: float = LIMIT_S) -> Run:
        there = world(techniques=(Int, Smooth, Gentle, Without, Teach))
        there.floor = 0.08
        there.trained.extend(disk.trained if disk else ())
        folder = Watched(disk.restored(out) if disk else out)
        machine = Machine(there, self.clock, folder)
        folder.machine.append(machine)
        ready = prepared(machine, limit_s)
        runner: Any = machine
        told = Noting()
        hunt = Hunt(ready, runner, told)
        hunt.follow(Search(hunt.scene()))
        originals = Originals.of(hunt.trials, hunt.ranking, limit_s)
        trials = {trial.key: trial for trial in hunt.trials}
        choosing = Choosing(hunt.ranking, originals, trials, hunt.candidates, hunt.finals, machine.compare, ready.clock)
        winner = choosing.winner()
        asked, looks = list(hunt.candidates.values()), [replace(look, elapsed_s=0.0) for look in hunt.finals.seen]
        disks, torn = machine.disks, machine.torn
        return Run(asked, machine.tried, folder.log.read(), looks, hunt.kept(), winner, disks, torn, told.notes)


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Looks take LOOK_S and show the drop that is known; nothing has to survive a power cut."""
    clock = Clock()
    monkeypatch.setattr("paring.flow.clock.time", clock)
    monkeypatch.setattr("os.fsync", lambda _: None)

    def looked(self: finalists.Finals, candidate: Candidate, share: float) -> Finalist:
        rows = self._prepared.folder.log.read()
        drop = next(row["drop"] for row in rows if row["key"] == candidate.key)
        clock.now_s += LOOK_S
        certificate = Certificate(drop, drop + 0.001 / share, 0.95, 7000, "exact")
        return Finalist(candidate.key, share, certificate, "", certified=certificate.meets(0.01))

    monkeypatch.setattr(finalists.Finals, "_looked", looked)
    return Workshop(clock)


def test_every_look_is_told_as_it_is_taken(workshop: Workshop, tmp_path: Path) -> None:
    whole = workshop.run(tmp_path)
    looks = json.loads(whole.disks[-1].files["trials/finalists.json"])["looks"]
    assert len(looks) > 1
    for look, note in zip(looks, whole.notes, strict=True):
        assert f"at {look['share']:.0%} of the error that the confidence leaves: drop at most" in note


def test_wherever_a_run_is_cut_it_goes_on_and_answers_as_if_it_had_not_been(workshop: Workshop, tmp_path: Path) -> None:
    whole = workshop.run(tmp_path / "whole")
    assert {("a",), ("b",), ("c",), ("d",), ("e",), ("a", "e")} <= whole.settings(Without, "names"), "parts and joins"
    assert {1, 5} < whole.settings(Teach, "epochs"), "a race"
    long = {c.module_part for c in whole.asked if any(isinstance(t, Teach) and t.epochs > 5 for t in c.recipe)}
    assert len(long) == 2, "a long training and a second choice"
    assert isinstance(whole.winner, Winner)
    assert len(whole.disks) > len(whole.rows) + 2, "cuts before and behind looks"
    for number, disk in enumerate(whole.disks):
        done = disk.files.get("trials/trials.jsonl", b"").count(b"\n")
        cut = workshop.run(tmp_path / str(number), disk)
        assert cut.asked == whole.asked
        assert cut.tried == whole.tried[done:]
        assert cut.rows == whole.rows
        assert cut.looks == whole.looks
        assert cut.answer == whole.answer


def structures(run: Run) -> list[tuple[Recipe, str]]:
    """What was asked for, but for how long it was trained."""
    return [(tuple(t for t in c.recipe if not isinstance(t, Teach)), str(c.backend)) for c in run.asked]


def test_a_run_that_is_cut_behind_a_training_does_not_repeat_it_and_knows_how_long_it_took(
    workshop: Workshop, tmp_path: Path
) -> None:
    whole = workshop.run(tmp_path / "whole")
    assert len(whole.torn) == 6, "four laps and two long trainings"
    first_long = [any(isinstance(t, Teach) and t.epochs > 5 for t in c.recipe) for c in whole.asked].index(True)
    for number, disk in enumerate(whole.torn):
        done = disk.files["trials/trials.jsonl"].count(b"\n")
        cut = workshop.run(tmp_path / str(number), disk)
        assert cut.asked[: done + 1] == whole.asked[: done + 1]
        assert structures(cut)[: first_long + 1] == structures(whole)[: first_long + 1]
        saved_s = cut.rows[done]["coverage"][-2]["apply_s"]
        assert cut.rows[done]["elapsed_s"] == pytest.approx(whole.rows[done]["elapsed_s"] - saved_s)
        assert cut.rows[-1]["elapsed_s"] <= cut.rows[-1]["search_limit_s"]


def test_a_run_that_got_more_time_goes_on_with_all_of_it_also_when_it_is_cut(
    workshop: Workshop, tmp_path: Path
) -> None:
    short = workshop.run(tmp_path / "short", limit_s=12.5)
    longer = workshop.run(tmp_path / "longer", short.disks[-1])
    assert longer.asked[: len(short.asked)] == short.asked
    assert longer.tried
    again = workshop.run(tmp_path / "again", longer.disks[-1])
    assert again.asked == longer.asked
    assert again.tried == []
    assert again.answer == longer.answer


def test_what_was_made_for_a_trial_that_the_time_cut_short_waits_for_the_next_run(
    workshop: Workshop, tmp_path: Path
) -> None:
    run = workshop.run(tmp_path, limit_s=12.5)
    waiting = [candidate for candidate in run.asked if candidate.key not in run.tried]
    assert waiting
    assert set(waiting) <= set(run.kept) < set(run.asked)
