"""What is known of the machine: which sizes run fast, and `sleepy`, which is quick here and has a name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from paring.flow import conclusion, trials
from paring.techniques import prune_channels
from tests import moved_clock
from tests.command_line import ENVIRONMENT


@pytest.fixture(autouse=True)
def multiples_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured once on each machine is the same on all."""
    monkeypatch.setattr(prune_channels, "fast_multiple", lambda: 8)


@pytest.fixture(scope="module")
def short_comparisons() -> Iterator[None]:
    """Sleeping takes the same time in every process: no comparison need be long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclusion, "COMPARISON_LIMIT_S", 1.0)
        patch.setattr(trials, "COMPARISON_TIME_S", 0.2)
        yield


@pytest.fixture(scope="module")
def known_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On the command line its backend is `sleepy` and its technique `Cheapen`, as of a package that is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "known_machine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: known-machine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[paring.backends]\nsleepy = tests.sleepy_backend:Sleepy\n[paring.techniques]\nCheapen = tests.sleepy:Cheapen\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", os.pathsep.join((str(site), ENVIRONMENT["PYTHONPATH"])))
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> moved_clock.Clock:
    """Runs go by a clock that the test moves."""
    return moved_clock.installed(monkeypatch)
