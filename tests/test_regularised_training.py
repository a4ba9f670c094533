"""Regularised training: what is pruned afterwards is missed less, and the penalties are what their papers say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.weights import matrices
from paring.ops.penalties import PENALTIES
from paring.techniques.prune_channels import PruneChannels
from paring.techniques.prune_weights import PruneWeights
from paring.techniques.regularised_training import RegularisedTraining
from paring.types import Task
from tests.test_pruning_schedules import job, score, taught

WEIGHTS = [torch.tensor([[3.0, -4.0], [0.0, 0.0]]), torch.tensor([[2.0], [-1.0]])]


@pytest.mark.parametrize(("name", "wanted"), [("l1", 10.0), ("l2", 15.0), ("group_lasso", 5 * 2**0.5 + 3)])
def test_penalties_by_hand(name: str, wanted: float) -> None:
    assert float(PENALTIES[name](WEIGHTS)) == pytest.approx(wanted, abs=1e-4)


def test_a_channel_that_is_gone_has_a_gradient() -> None:
    weights = [each.clone().requires_grad_() for each in WEIGHTS]
    PENALTIES["group_lasso"](weights).backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(each.grad).all()) for each in weights if each.grad is not None)


def smallest(model: nn.Module) -> float:
    """The share of all magnitude that the smaller half of the weights holds."""
    sizes = torch.cat([each.parameter.detach().abs().flatten() for each in matrices(model)]).sort().values
    return float(sizes[: len(sizes) // 2].sum() / sizes.sum())


def narrowest(model: nn.Module) -> float:
    """The same of the channels of the first layer, by their norms."""
    sizes = model.get_parameter("0.weight").detach().norm(dim=1).sort().values
    return float(sizes[: len(sizes) // 2].sum() / sizes.sum())


def factors(model: nn.Module) -> float:
    return float(model.get_parameter("1.weight").detach().abs().mean())


@pytest.mark.parametrize(
    ("settings", "shrinks"),
    [
        ({"penalty": "l1", "strength": 1e-3}, smallest),
        ({"penalty": "l1", "strength": 1e-2, "growing": True}, smallest),
        ({"penalty": "group_lasso", "strength": 1e-2}, narrowest),
        ({"penalty": "group_lasso", "strength": 3e-2, "growing": True}, narrowest),
        ({"penalty": "norm_scale", "strength": 1e-1}, factors),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,
)
def test_what_is_not_needed_shrinks(settings: dict[str, object], shrinks: Callable[[nn.Module], float]) -> None:
    pressed = RegularisedTraining(epochs=6, learning_rate=0.1, **settings).apply(taught(), job())  # type: ignore[arg-type]
    assert shrinks(pressed) < 0.9 * shrinks(taught())
    assert score(pressed) > score(taught()) - 0.05


def test_all_weights_shrink_alike_under_l2() -> None:
    def size(model: nn.Module) -> float:
        return sum(float(each.parameter.detach().square().sum()) for each in matrices(model))

    pressed = RegularisedTraining(epochs=6, learning_rate=0.1, penalty="l2", strength=1e-2).apply(taught(), job())
    assert size(pressed) < 0.9 * size(taught())


def test_a_pruning_that_follows_takes_less_away() -> None:
    free = RegularisedTraining(epochs=6, learning_rate=0.1, strength=1e-12).apply(taught(), job())
    pressed = RegularisedTraining(epochs=6, learning_rate=0.1, strength=2e-3).apply(taught(), job())
    prune = PruneWeights(0.85, scope="global")
    assert score(prune.apply(pressed, job())) > score(prune.apply(free, job())) + 0.05
    assert score(PruneChannels(0.25, round_to=1).apply(pressed, job())) > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength=0.0 must be above 0"),
        ({"penalty": "l0"}, "penalty='l0' is unknown: choose one of l1, l2, group_lasso, norm_scale"),
        ({"growing": "yes"}, "growing='yes' must be True or False"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        RegularisedTraining(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("norm_scale", "penalty='norm_scale' finds no normalisation with factors in this network"),
        ("group_lasso", "penalty='group_lasso' finds no channels that can be pruned in this network"),
    ],
)
def test_nothing_to_press_is_told(penalty: str, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    data: list[tuple[Tensor, Tensor]] = [(torch.randn(8, 4), torch.arange(8) % 3)]
    with pytest.raises(TechniqueError, match=message):
        RegularisedTraining(epochs=1, penalty=penalty).apply(model.eval(), Job.of(Task(model.eval(), data, train=data)))  # type: ignore[arg-type]
