"""Whether the rows can certify the budget: refused only where no method can, and told once the scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paring
from paring.certify import certify
from paring.certify.corpus import certify_corpus
from paring.errors import BudgetError
from paring.flow.certifiable import Certifiable
from paring.types import Budget, CorpusMetric, Task
from tests import sleepy

ROWS = 500
BETWEEN = 0.0065
"""Certifiable with 500 rows where scores are right or wrong, or of a corpus, and not where they lie between."""


def mean(statistics: Any) -> float:
    return float(statistics.mean())


def right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float()


def graded(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.softmax(1)[torch.arange(len(targets)), targets]


def certifiable(metric: Any, max_drop: float, rows: int = ROWS) -> Certifiable:
    task = Task(sleepy.network(), [sleepy.rows(40)], metric=metric)
    return Certifiable.of(task, Budget(max_drop=max_drop), rows, 1.0)


def test_a_metric_of_the_user_that_says_right_or_wrong_has_an_exact_bound() -> None:
    found = certifiable(right, BETWEEN).knowing(np.array([0.0, 1.0, 1.0]))
    found.check()
    same = np.ones(ROWS)
    assert found.smallest_drop == certify(same, same, confidence=0.95).upper_bound


def test_a_corpus_has_the_bound_of_its_certificate() -> None:
    found = certifiable(CorpusMetric(right, mean), BETWEEN).knowing(np.full((3, 1), 0.5))
    found.check()
    same = np.ones((ROWS, 1))
    assert found.smallest_drop == pytest.approx(certify_corpus(same, same, mean, confidence=0.95).upper_bound)


def test_scores_between_the_ends_are_refused_once_they_are_known() -> None:
    found = certifiable(right, BETWEEN)
    found.check()
    with pytest.raises(BudgetError, match=r"smallest drop that they can certify is 0\.0072\. Give evaluate at least"):
        found.knowing(np.array([0.0, 0.5])).check()


def test_a_drop_beyond_the_range_of_the_scores_is_refused_and_all_of_it_is_not() -> None:
    certifiable(right, 1.0).check()
    with pytest.raises(BudgetError, match=r"max_drop=2 is more .* between 0 and 1: .* unit, for example 0\.01\."):
        certifiable(right, 2.0).check()


def test_a_drop_of_0_tells_what_it_takes() -> None:
    found = certifiable(right, 0.0)
    found.check()
    fixes = int(found.told.partition("gets ")[2].split()[0])
    right_or_wrong = {n: np.r_[np.zeros(n), np.ones(ROWS - n)] for n in (fixes - 1, fixes)}
    bounds = [certify(scores, np.ones(ROWS), confidence=0.95).upper_bound for scores in right_or_wrong.values()]
    assert bounds[1] <= 0 < bounds[0]
    assert "scores clearly higher than the original" in found.knowing(np.array([0.5])).told
    assert "more rows than these" in certifiable(right, 0.0, rows=1).told


@pytest.mark.parametrize(
    ("metric", "told"), [(graded, "can't be certified with 450 rows: the smallest drop that they"), (right, "")]
)
def test_a_run_learns_from_the_scores_what_can_be_certified(metric: Any, told: str, tmp_path: Path) -> None:
    task = Task(sleepy.network(), [sleepy.rows(600)], metric=metric)
    options: dict[str, Any] = {"backends": [sleepy.Sleepy()], "techniques": [], "threads": 1, "progress": False}
    probability = 0.05 * 0.6
    limit = 1.06 * (1 - probability ** (1 / 450))
    if told:
        with pytest.raises(BudgetError, match=told):
            paring.optimize(task, Budget(max_drop=limit), out=tmp_path, time_limit_s=60, **options)
    else:
        result = paring.optimize(task, Budget(max_drop=limit), out=tmp_path, time_limit_s=60, **options)
        assert result.status == "kept-original"
        assert result.reason == "no technique proposed anything to try for this network"
