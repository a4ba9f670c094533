"""The page in a real browser that can reach no host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from paring.report import write_report
from tests.test_report_page import infeasible, rendered, result, rows
from tests.test_report_sensitivity import PARTS, trials

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


def opened(page: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The document after its script ran, and what the browser's console said."""
    assert BROWSER is not None
    logging = ("--enable-logging=stderr", "--log-level=0")
    command = [BROWSER, *QUIET, OFFLINE, *logging, *more, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(DATA, folder / "out")
    return opened(write_report(folder / "out"), folder / "profile")


def widths(page: str, folder: Path, window: int) -> dict[str, list[int]]:
    """For each table the pixels that it takes and those that it has, in a window of that width."""
    script = (
        'document.title = "widths " + JSON.stringify(Object.fromEntries([...document.querySelectorAll(".scroll")].map('
        'frame => [frame.getAttribute("aria-label"), [frame.scrollWidth, frame.clientWidth]])))'
    )
    # The page's own policy lets no script run but its own.
    measured = page.replace("Content-Security-Policy", "unread").replace("</body>", f"<script>{script}</script></body>")
    (folder / "page.html").write_text(measured)
    dom, _ = opened(folder / "page.html", folder / "profile", f"--window-size={window},900")
    found: dict[str, list[int]] = json.loads(unescape(re.findall(r"<title>widths (.*?)</title>", dom)[0]))
    return found


def test_the_nearest_points_need_no_scrolling_on_a_wide_screen(tmp_path: Path) -> None:
    answer = infeasible()
    answer["nearest"][0]["backend_text"] = "openvino(static_batch=1, threads=1)"
    answer["nearest"][0]["misses"] = "size 230 kB above 70.0 kB; memory 67.1 MB above 1.00 MB; drop 0.03124 above 0.02"
    for window in (1000, 1200, 1440):
        needed, there = widths(rendered(answer, rows()), tmp_path, window)["The nearest points"]
        assert 0 < needed <= there, window


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


def test_the_sensitivities_are_drawn_and_can_be_sorted_under_the_policy(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(rendered(result(), trials()))
    dom, said = opened(tmp_path / "page.html", tmp_path / "profile")
    assert said == []
    drawn = dom[dom.index('id="sensitivity"') : dom.index('id="failures"')]
    measured = sum(part["speedup"] is not None for part in PARTS)
    assert len(re.findall(r'class="dot"', drawn)) == 2 * 2 * measured
    assert len(re.findall(r'class="dot"[^>]*tabindex="0"', drawn)) == 2, "each chart is one stop of the Tab key"
    assert dom.count('id="find"') == 1, "what searches the trials stands above them alone"
    assert 'id="find"' not in drawn
