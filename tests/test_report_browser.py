"""The page in a real browser that can reach no host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from paring.report import write_report

DATA = Path(__file__).parent / "data" / "report"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its script ran, and what the browser's console said."""
    assert BROWSER is not None
    logging = ("--enable-logging=stderr", "--log-level=0")
    command = [BROWSER, *QUIET, OFFLINE, *logging, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(DATA, folder / "out")
    return opened(write_report(folder / "out"), folder / "profile")


def test_the_console_is_silent(seen: tuple[str, list[str]]) -> None:
    assert seen[1] == []


def test_a_broken_script_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><script>missing()</script>")
    assert "missing is not defined" in "".join(opened(page, tmp_path / "profile")[1])


def test_the_charts_and_the_tables_are_there(seen: tuple[str, list[str]]) -> None:
    dom = seen[0]
    assert len(re.findall(r"<svg[^>]*class=\"chart ", dom)) == 2
    assert len(re.findall(r"class=\"dot\"", dom)) == 44
    assert dom.count("<table") == 3
    assert "2.44× faster" in dom


def test_the_script_ran_under_the_policy(seen: tuple[str, list[str]]) -> None:
    dom = seen[0]
    assert 'id="find"' in dom, "the trials can be searched"
    assert "<title>#" not in dom, "the browser's own tooltips made way"
    assert len(re.findall(r"class=\"dot\"[^>]*tabindex=\"0\"", dom)) == 2, "each chart is one stop of the Tab key"
