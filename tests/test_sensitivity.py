"""What each part of a network gains and loses alone, on a machine that is fully known, and what a speed-up takes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import paring
from paring.cli.chosen import chosen
from paring.cli.tables import print_sensitivity
from paring.errors import BudgetError, InputError, TaskError, TechniqueError
from paring.flow.sensitivity import Sensitivity, check_module
from paring.report import write_report, write_survey
from paring.techniques import FineTune, PruneChannels
from paring.techniques.remove_blocks import NO_BLOCK
from paring.tune.allocation import Step
from paring.tune.survey import Survey, Target
from paring.types import Task
from tests import sleepy
from tests.command_line import refused, task_file, typed
from tests.sleepy_backend import Lanes
from tests.worlds import Without, World, world

pytestmark = pytest.mark.usefixtures("short_comparisons")

WANTED = 1.5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + 0.1 * self.inner(values)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(sleepy.FEATURES, 40), nn.ReLU(), nn.Linear(40, 8), nn.ReLU()]
    return nn.Sequential(*layers, Residual(), nn.Linear(8, sleepy.CLASSES)).eval()


def task() -> Task:
    points, _ = sleepy.rows(600)
    model = network()
    with torch.no_grad():
        return Task(model, [(points, model(points).argmax(1))], name="points")


def plain_task(*widths: int) -> Task:
    """Of linear layers alone, of which all but the last have channels that can go: its parts are soon measured."""
    points, _ = sleepy.rows(600)
    torch.manual_seed(0)
    ends = pairwise((sleepy.FEATURES, *widths, sleepy.CLASSES))
    layers = [each for read, given in ends for each in (nn.Linear(read, given), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).eval()
    with torch.no_grad():
        return Task(model, [(points, model(points).argmax(1))], name="points")


def surveyed(out: Path, of: Task | None = None, **options: Any) -> Sensitivity:
    return paring.sensitivity(of or task(), out=out, backends=[Lanes()], threads=1, seed=0, progress=False, **options)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory, short_comparisons: None) -> Sensitivity:
    return surveyed(tmp_path_factory.mktemp("parts"), speedup=WANTED)


def saved(survey: Sensitivity, layer: str) -> dict[float, float]:
    return {p["share"]: p["time_saved"] for p in survey.values["parts"] if p["layer"] == layer}


def test_each_part_gains_what_the_machine_saves_by_it(survey: Sensitivity) -> None:
    """Other processes may delay it by a little: what is told apart is far apart."""
    whole = Lanes.cost_ms([(40, 6), (8, 40), (8, 8), (8, 8), (3, 8)])
    without_block = Lanes.cost_ms([(40, 6), (8, 40), (3, 8)])
    assert saved(survey, "4") == {1.0: pytest.approx(1 - without_block / whole, abs=0.25)}
    gains = {round(40 * (1 - share)): gain for share, gain in saved(survey, "0").items()}
    assert sorted(gains) == [12, 16, 20, 32]
    for kept in (32, 12):
        cost_ms = Lanes.cost_ms([(kept, 6), (8, kept), (8, 8), (8, 8), (3, 8)])
        assert gains[kept] == pytest.approx(1 - cost_ms / whole, abs=0.25)
    assert gains[12] > gains[32]


def test_drops_are_those_of_the_selection_split_and_the_whole_network_has_none(survey: Sensitivity) -> None:
    assert survey.values["original"]["score"] == 1.0
    assert survey.values["rows"] == 150
    drops = {(p["technique"], p["layer"], p["share"]): p["drop"] for p in survey.values["parts"]}
    assert max(drops.values()) > 0.02
    assert drops["PruneChannels", "0", 0.7] >= drops["PruneChannels", "0", 0.2]


def test_the_recipe_is_as_fast_as_was_wanted_and_can_be_typed(survey: Sensitivity) -> None:
    assert survey.recipe is not None
    (typed_again,) = chosen("technique", survey.values["recipe"]) or ()
    assert (typed_again if isinstance(typed_again, tuple) else (typed_again,)) == survey.recipe
    reached = next(join for join in survey.values["joins"] if join["recipe"] == survey.values["recipe"])
    assert reached["speedup"] >= WANTED
    surely_fast = [join for join in survey.values["joins"] if join["speedup"] >= 1.1 * WANTED]
    assert all(reached["drop"] <= join["drop"] for join in surely_fast)


def test_of_joins_that_are_fast_enough_the_one_of_least_harm_is_taken() -> None:
    """Even where a block that goes has made the sum of what the parts promise smaller."""
    there = world(techniques=(Without,))
    survey = Survey(there.scene, Target(speedup=1.3))
    while asked := survey.ask():
        survey.tell(asked, [there.measure(candidate, len(survey.trials)) for candidate in asked])
    fast = [trial for _, trial in survey.joins.values() if trial.speedup and trial.speedup.ratio >= 1.3]
    survey.joins[9] = Step((), 0.01), replace(fast[0], drop=0.9)
    assert survey.reached is not None
    assert survey.reached.drop == min(trial.drop or 0.0 for trial in fast)
    assert survey.reached.speedup is not None
    assert survey.reached.speedup.ratio >= 1.3


class Twin(Without):
    """Another technique with as many parts."""


def told_all(there: World, target: Target) -> Survey:
    survey = Survey(there.scene, target)
    while there.clock_s > 0 and (asked := survey.ask()):
        survey.tell(asked, [there.measure(candidate, len(survey.trials)) for candidate in asked])
    return survey


def test_time_is_kept_for_joins() -> None:
    survey = told_all(world(techniques=(Without,), time_s=8.5), Target(speedup=1.3))
    assert len(survey.measured) == 4
    assert survey.joins
    assert "4 of 5 were measured" in survey.scene.not_tried["parts of Without"]


def test_each_technique_gets_its_part_of_the_time() -> None:
    survey = told_all(world(techniques=(Without, Twin), time_s=12.0), Target(speedup=1.3))
    assert [part.technique.name for part, _ in survey.measured] == ["Without"] * 3 + ["Twin"] * 3


def test_a_part_alone_that_is_fast_enough_is_an_answer_where_no_join_is() -> None:
    survey = told_all(world(techniques=(Without,), time_s=5.9), Target(speedup=1.05))
    assert not survey.joins
    assert survey.reached is not None
    assert survey.reached.recipe[0]["settings"]["names"] == ("b",)
    assert survey.told_joins == [((Without(names=("b",)),), survey.reached)]


def test_an_object_keeps_its_criterion(tmp_path: Path) -> None:
    found = surveyed(tmp_path, plain_task(24), techniques=[PruneChannels(criterion="magnitude_l1")])
    assert {part["technique"] for part in found.values["parts"]} == {"PruneChannels"}
    assert all("criterion=magnitude_l1" in part["typed"] for part in found.values["parts"])
    assert found.recipe is None
    assert found.values["joins"] == []


def test_a_survey_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    first = surveyed(tmp_path, plain_task(24, 16), techniques=[PruneChannels])
    again = surveyed(tmp_path, plain_task(24, 16), techniques=[PruneChannels], speedup=2.5)
    assert [t.wall_time_s for t in again.trials[: len(first.trials)]] == [t.wall_time_s for t in first.trials]
    assert len(again.trials) > len(first.trials)
    assert json.loads((tmp_path / "sensitivity.json").read_text()) == again.values


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"speedup": 1.0}, "speedup=1.0 must be a number above 1, for example 2.0."),
        ({"latency_ms": 0}, "latency_ms=0 must be a number above 0, in milliseconds."),
        (
            {"speedup": 2.0, "latency_ms": 3.0},
            "speedup=2.0 and latency_ms=3.0 contradict each other: give one of them.",
        ),
    ],
)
def test_targets_that_make_no_sense(tmp_path: Path, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(BudgetError) as refusal:
        surveyed(tmp_path, **options)
    assert str(refusal.value) == sentence


def test_a_technique_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"StaticQuantization does not divide into parts: name .* \(PruneChannels, RemoveBlocks\)"
    ):
        surveyed(tmp_path, techniques=["StaticQuantization"])
    with pytest.raises(InputError, match=r"PruneWeights divides into parts of which no runtime here gains any time: "):
        surveyed(tmp_path, techniques=["PruneWeights"], speedup=2.0)


def test_a_recipe_is_refused_by_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        surveyed(tmp_path, techniques=[(PruneChannels(0.25), FineTune(epochs=2))])
    assert str(refusal.value) == (
        "PruneChannels(ratio=0.25) + FineTune(epochs=2) is a recipe, and the parts of single techniques are measured: "
        "name techniques that divide into parts (PruneChannels, RemoveBlocks), separated by commas."
    )


def test_a_network_without_blocks_is_told_so_and_nothing_of_trainings(tmp_path: Path) -> None:
    with pytest.raises(TechniqueError) as refusal:
        surveyed(tmp_path, plain_task(24), techniques=["RemoveBlocks"])
    assert str(refusal.value) == f"no part of the network could be measured (RemoveBlocks: {NO_BLOCK})."


def test_nothing_is_said_of_trainings_where_the_time_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paring.tune.survey.ends_s", lambda *_: [math.inf, 0.0])
    survey = surveyed(tmp_path, techniques=["RemoveBlocks", "PruneChannels"])
    reasons = {row["what"]: row["reason"] for row in survey.values["not_tried"]}
    assert reasons["parts of RemoveBlocks"].startswith("0 of ")
    assert not [reason for reason in reasons.values() if "training" in reason]


@pytest.mark.parametrize(("trains", "end"), [(True, ' + FineTune"'), (False, ')"')])
def test_the_recipe_is_printed_with_the_training_that_mends_it(
    survey: Sensitivity, capsys: pytest.CaptureFixture[str], trains: bool, end: str
) -> None:
    print_sensitivity({**survey.values, "train_data": trains})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "--techniques" in line)
    assert line.endswith(end)


def test_what_the_zeros_of_each_layer_cost_is_told_by_name(tmp_path: Path) -> None:
    found = surveyed(tmp_path, plain_task(24), techniques=["PruneWeights"])
    shares = {(part["layer"], part["share"]) for part in found.values["parts"]}
    assert shares == {(layer, share) for layer in ("0", "2") for share in (0.5, 0.8, 0.95)}
    assert all(part["technique"] == "PruneWeights" for part in found.values["parts"])
    assert found.recipe is None
    lost = {(part["layer"], part["share"]): part["drop"] for part in found.values["parts"]}
    assert max(lost.values()) > 0


def test_zeros_are_not_measured_where_nobody_named_them(tmp_path: Path) -> None:
    found = surveyed(tmp_path, plain_task(24))
    assert "PruneWeights" not in {part["technique"] for part in found.values["parts"]}


TASK = "from tests.test_sensitivity import task\ntask = task()\n"


def test_on_the_command_line(tmp_path: Path) -> None:
    file = task_file(tmp_path, TASK)
    command = ["sensitivity", str(file), "--out", str(tmp_path / "out"), "--backends", "onnxruntime", "--threads", "1"]
    shown = typed(*command, "--techniques", "RemoveBlocks")
    assert shown.returncode == 0, shown.stderr
    assert "RemoveBlocks" in shown.stdout
    assert "100" in shown.stdout
    fast = typed(*command, "--techniques", "RemoveBlocks", "--speedup", "1000", "--json")
    assert fast.returncode == 3
    values = json.loads(fast.stdout)
    assert values["recipe"] is None
    assert values["reason"].startswith("1000.00x was not reached: the fastest join of parts came to ")
    assert values["reason"] in fast.stderr


def test_a_typed_target_that_makes_no_sense(tmp_path: Path) -> None:
    file = task_file(tmp_path, TASK)
    finished = typed("sensitivity", file, "--out", tmp_path / "out", "--speedup", "0.5")
    assert refused(finished) == "paring: speedup=0.5 must be a number above 1, for example 2.0."


def test_the_page_shows_every_layer_and_the_recipe(survey: Sensitivity, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "sensitivity.json").write_text(json.dumps(survey.values))
    rows = [json.dumps(trial.to_json()) for trial in survey.trials]
    (tmp_path / "trials" / "trials.jsonl").write_text("\n".join(rows) + "\n")
    text = write_survey(tmp_path).read_text()
    assert "1.50× at the least harm: a training has to mend it" in text
    for layer in {part["layer"] for part in survey.values["parts"]}:
        assert f">{layer}<" in text
    assert survey.values["recipe"].split(" + ")[0] in text.replace("&#x27;", "'").replace("&#39;", "'")
    assert write_report(tmp_path) == tmp_path / "sensitivity.html"


def test_a_graph_has_no_parts(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.touch()
    sentence = f"{file} is a graph, and parts are removed from a module: give a task whose model is one."
    assert refused(typed("sensitivity", file, "--out", tmp_path / "out")) == f"paring: {sentence}"
    with pytest.raises(TaskError, match="is a graph, and parts are removed from a module"):
        check_module(file)
