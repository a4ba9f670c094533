"""Prunings that can't be what was meant, as they are typed: each is refused at once, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paring.ops.importance import CRITERIA, OF_GRADIENTS, Evidence
from tests.command_line import refused, task_file, typed

TASK = """
torch.manual_seed(0)
body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
network = nn.Sequential(body, nn.Linear(6, 3)).eval()
rows = torch.randn(400, 6)
batches = [(rows, network(rows).argmax(1))]
task = paring.Task(network, evaluate=batches, train=batches)
untaught = paring.Task(network, evaluate=batches)
unlabelled = paring.Task(network, evaluate=batches, train=[(rows, None)])
"""


@pytest.mark.parametrize(
    ("techniques", "says"),
    [
        ("PruneWeights(sparsity=1.0)", "sparsity=1.0 must be at least 0 and below 1"),
        ("PruneWeights(sparsity=50%)", "sparsity='50%' must be a finite float or None"),
        ("PruneWeights(pattern=4:2)", "pattern='4:2' is unknown: use '1x1'"),
        (
            "PruneWeights(pattern=3:7) + FineTune(epochs=1)",
            "can't prune '0.0': pattern 3:7 does not fit: 6 inputs",
        ),
        (
            "PruneWeights(layers=('body.0',))",
            "layers names 'body.0', which holds no weights: use a layer",
        ),
        ("PruneWeights(sparsities=(('0.1',0.5),))", "sparsities names '0.1', which holds no weights"),
        (
            "PruneWeights(sparsities=(('1',0.5),('1',0.9)))",
            "sparsities names '1' twice, with 0.5 and 0.9",
        ),
        (
            "PruneChannels(ratios=(('0.0',0.5),('0.0',0.25)))",
            "ratios names '0.0' twice, with 0.5 and 0.25",
        ),
        ("GradualPruning(prune=PruneWeights(layers=('2',)))", "layers names '2', which holds no weights"),
        ("PruneChannels(ratio=-0.5)", "ratio=-0.5 must be at least 0 and below 1"),
        ("PruneChannels(ratios=(('0.3',0.5),)) + FineTune", "ratios names '0.3', which the network does not have"),
        ("IterativePruning(prune=PruneChannels(ratios=(('x',0.5),)))", "ratios names 'x', which the network does not"),
        ("RemoveBlocks(blocks=('0.9',))", "blocks names '0.9', which the network does not have; the closest are 0"),
        ("PruneWeights(threshold=100.0)", "PruneWeights(threshold=100.0) leaves nothing of '0.0': remove less"),
        (
            "PruneChannels(ratios=(('1',0.5),)) + FineTune(epochs=1)",
            "'1' can't be pruned: they are the network's output",
        ),
        ("PruneWeights(criterion=wandaa)", "criterion='wandaa' is unknown: choose wanda"),
        ("PruneWeights(criterion=FILE:bodily)", "user_task.py has no function 'bodily': write one, or name one"),
    ],
)
@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_a_pruning_that_the_network_can_not_have(tmp_path: Path, techniques: str, says: str, plan: list[str]) -> None:
    file = task_file(tmp_path, TASK)
    techniques = techniques.replace("FILE", str(file))
    sentence = refused(typed("optimize", file, "--out", tmp_path / "out", "--techniques", techniques, *plan))
    assert says in sentence


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("untaught", "a criterion of gradients needs training data: give the task `train`, or choose a criterion"),
        ("unlabelled", "a criterion of gradients needs labels, and `train` has none: choose a criterion"),
    ],
)
@pytest.mark.parametrize(
    ("words", "technique"),
    [
        (["optimize"], "PruneWeights(criterion=taylor)"),
        (["optimize", "--plan"], "GradualPruning(prune=PruneWeights(criterion=squared_gradient))"),
        (["optimize", "--plan"], "PruneChannels(criterion=fisher)"),
        (["sensitivity"], "PruneChannels(criterion=taylor)"),
    ],
)
def test_a_criterion_that_needs_what_the_task_does_not_have(
    tmp_path: Path, task: str, says: str, technique: str, words: list[str]
) -> None:
    file = task_file(tmp_path, TASK)
    sentence = refused(typed(*words, f"{file}:{task}", "--out", tmp_path / "out", "--techniques", technique))
    assert says in sentence


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
@pytest.mark.parametrize("technique", ["IterativePruning(rounds=2)", "GradualPruning(until=0.5)", "FineTune(epochs=2)"])
def test_a_training_with_settings_and_no_training_data(tmp_path: Path, technique: str, plan: list[str]) -> None:
    file = task_file(tmp_path, TASK)
    words = ("optimize", f"{file}:untaught", "--out", tmp_path / "out", "--techniques", technique, *plan)
    assert f"{technique.split('(')[0]} needs training data: give the task `train`" in refused(typed(*words))


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_asks_for_gradients_where_it_is_said_to(name: str) -> None:
    asked: list[str] = []

    def observe(what: str) -> torch.Tensor:
        asked.append(what)
        return torch.ones(2, 3)

    CRITERIA[name](Evidence.of(torch.ones(2, 3), observe))
    assert any("gradient" in what for what in asked) == (CRITERIA[name] in OF_GRADIENTS)
