"""Techniques that fail before they are tried stop nobody else; recipes are judged as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest

import paring
from paring.flow import conclusion
from paring.flow.result import Result
from paring.techniques import FineTune
from tests import sleepy
from tests.refusing import Bug, Coarse, Foldered, Thin, Untraceable
from tests.sleepy_backend import Undecided


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    task = sleepy.task()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclusion, "COMPARISON_LIMIT_S", 2.0)
        yield paring.optimize(
            replace(task, train=task.evaluate),
            out=tmp_path_factory.mktemp("run"),
            time_limit_s=300,
            techniques=[Bug, Untraceable, Foldered, FineTune, Thin(), Coarse()],
            backends=[Undecided, sleepy.Sleepy()],
            threads=1,
            progress=False,
        )


def test_what_can_not_propose_is_told_and_the_rest_runs(result: Result) -> None:
    assert result.status == "improved"
    not_tried = json.loads((result.report.parent / "result.json").read_text())["not_tried"]
    assert {row["what"]: row["reason"] for row in not_tried} == {
        "Bug": "proposing its settings raised KeyError: 'no such layer'.",
        "Untraceable": "layer 'fc' can't be traced.",
        "Foldered": "folder=PosixPath('cache') of Foldered can't be stored as JSON: "
        "give a plain finite number, a text, a truth value, None, or a list or dict of these.",
        "FineTune": "it makes nothing smaller itself, and nothing makes a smaller network for it.",
        "undecided": "proposing its settings raised OSError: no table of cores.",
    }
    page = unescape(result.report.read_text())
    assert "Not tried" in page
    assert "layer 'fc' can't be traced." in page


def test_two_techniques_that_are_harmless_alone_are_judged_together(result: Result) -> None:
    trials = {trial.recipe_text: trial for trial in result.trials}
    assert trials["Thin"].drop == trials["Coarse"].drop == 0
    alone, together = trials["Coarse"], trials["Thin -> Coarse"]
    assert together.drop is not None
    assert together.drop > 0.3
    assert alone.speedup is not None
    assert together.speedup is not None
    assert together.speedup.ratio > alone.speedup.ratio, "the faster one is the one that must not win"
    assert result.values["best"]["recipe_text"] == "Coarse"
