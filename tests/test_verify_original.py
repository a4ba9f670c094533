"""verify beside the original: where that is found, what was gained over it, and a host on which it does not run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paring.artifact import Manifest
from paring.cli.tables import print_verify
from paring.flow.promises import Figures, gains
from paring.flow.verify import located, verify
from paring.measure.compare import Comparison
from paring.types import Budget
from tests.sleepy_backend import Sleepy
from tests.test_verify import LATENCY, SIGNATURE, SLOW_MS, break_onnxruntime, changed, graph, rows_of, written

pytestmark = pytest.mark.usefixtures("known_machine")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The best, and a family of two whose original is slow."""
    root = tmp_path / "out"
    written(root / "best", graph(5.0), "Cheapen")
    written(root / "frontier" / "01", graph(5.0), "Cheapen")
    written(root / "frontier" / "02", graph(SLOW_MS), "original")
    return root


@pytest.mark.parametrize(
    ("inside", "typed"),
    [
        ("", "."),
        ("", "best"),
        ("", "frontier/01"),
        ("best", "."),
        ("best", ".."),
        ("frontier", "01"),
        ("frontier/01", "."),
        ("frontier/01", "../../best"),
    ],
)
def test_the_original_is_found_from_anywhere(
    out: Path, inside: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out / inside)
    artifact, original = located(Path(typed))
    assert artifact.manifest.recipe_text == "Cheapen"
    assert original is not None
    assert original.path == out / "frontier" / "02"


def test_the_original_itself_has_none_to_be_compared_with(out: Path) -> None:
    assert located(out / "frontier" / "02")[1] is None


def test_a_family_without_its_original_has_no_other(out: Path) -> None:
    changed(out / "frontier" / "02", recipe=[{"technique": "Cheapen"}], recipe_text="Cheapen")
    assert located(out)[1] is None


def test_an_output_folder_may_be_called_as_the_family_is(out: Path) -> None:
    again = out.rename(out.with_name("frontier"))
    _, original = located(again)
    assert original is not None
    assert original.path == again / "frontier" / "02"


def test_a_member_of_the_family_is_measured_beside_the_original(out: Path) -> None:
    code, rows = rows_of(".", cwd=out / "frontier" / "01")
    assert code == 0
    assert rows["speed-up over the original"]["verdict"] == "faster here too"


NOT_CHECKED = "What was checked holds here; speed not checked."


@pytest.mark.parametrize(
    ("inside", "checked", "verdict", "ending"),
    [
        ("best", True, "faster here too", "What was promised holds here."),
        ("alone", False, "speed not checked: no original beside it, copy the whole output folder", NOT_CHECKED),
        ("frontier/02", False, "speed not checked: it is the original", NOT_CHECKED),
    ],
)
def test_a_pass_says_whether_the_speed_was_checked(
    out: Path, inside: str, checked: bool, verdict: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(out / "best", out / "alone" / "best")
    found = verify(out / inside, time_limit_s=1.0, backends=[Sleepy])
    assert (found["holds"], found["speed_checked"]) == (True, checked)
    assert verdict in [row["verdict"] for row in found["checks"]]
    print_verify(found)
    assert capsys.readouterr().out.splitlines()[-1] == ending


def test_a_failure_says_what_it_is_of(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"path": str(out), "host": "here", "holds": False, "speed_checked": True, "checks": []}
    print_verify(found)
    print_verify(found | {"speed_checked": False})
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("What")] == [
        "What was promised does not hold here.",
        "What was checked does not hold here; speed not checked.",
    ]


@pytest.mark.parametrize(("limit", "code"), [(10**9, 0), (1, 1)])
def test_a_host_without_the_originals_runtime(
    out: Path, limit: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_onnxruntime(tmp_path, monkeypatch)
    changed(out / "frontier" / "02", backend="onnxruntime")
    changed(out / "best", budget={"max_size_bytes": limit})
    found, rows = rows_of(out)
    assert found == code
    assert "runtime" not in rows
    assert rows["golden outputs"]["holds"]
    assert rows["latency p50"]["holds"]
    assert "the original does not run beside it here" in rows["latency p50"]["verdict"]
    assert "libgomp.so.1 is missing" in rows["latency p50"]["verdict"]
    assert rows["size, limit"]["holds"] is (code == 0)


def test_a_host_that_does_not_know_the_originals_runtime(out: Path) -> None:
    changed(out / "frontier" / "02", backend="faraway")
    code, rows = rows_of(out)
    assert code == 0
    assert "'faraway', which is not installed here" in rows["latency p50"]["verdict"]


# What a member of the family promises: its figures, and those of the original, are over the reference of the run.


def made(objective: Any, **measurements: Any) -> Manifest:
    manifest = Manifest("t", SIGNATURE, "b", {}, [], "r", 1, 1)
    return replace(manifest, budget=Budget(objective=objective), measurements=measurements)


def speedup(ratio: float) -> dict[str, float]:
    return {"ratio": ratio, "low": 0.95 * ratio, "high": 1.05 * ratio}


@pytest.mark.parametrize(
    ("objective", "there", "here", "verdict", "holds"),
    [
        ("latency", 6.0, 1.5, "faster here too", True),
        ("latency", 6.0, 0.5, "not faster than the original here: serve the original", False),
        ("latency", 1.5, 0.5, "not faster than the original here, as where it was made", True),
        ("latency", 3.1, 0.9, "not faster than the original here, as where it was made", True),
        ("size", 3.0, 1.0, "not slower here either", True),
        ("size", 3.0, 0.5, "slower than the original here: serve the original", False),
        ("size", 1.5, 0.5, "slower than the original here, as where it was made", True),
    ],
)
def test_a_member_is_held_to_what_it_gained(
    objective: Any, there: float, here: float, verdict: str, holds: bool
) -> None:
    original = made(objective, speedup=speedup(3.0), size_bytes=1000)
    member = made(objective, speedup=speedup(there), size_bytes=400)
    found = Comparison(here, here * 0.99, here * 1.01, LATENCY, LATENCY, 1, 1, 7)
    *_, check = gains(member, found, Figures(1.0, 400, 1), Figures(1.0, 1000, 1), original)
    assert check.promised == f"{there / 3:.2f}×"
    assert (check.verdict, check.holds) == (verdict, holds)


@pytest.mark.parametrize("objective", ["size", "memory"])
def test_a_member_that_was_larger_may_be_larger(objective: Any) -> None:
    original = made(objective, speedup=speedup(3.0), size_bytes=1000, peak_memory_bytes=1000)
    member = made(objective, speedup=speedup(9.0), size_bytes=2000, peak_memory_bytes=2000)
    found = Comparison(3.0, 2.9, 3.1, LATENCY, LATENCY, 1, 1, 7)
    figures = Figures(1.0, 2000, 2000), Figures(1.0, 1000, 1000)
    assert all(check.holds for check in gains(member, found, *figures, original))
    assert not all(check.holds for check in gains(member, found, *figures))
