"""The documentation is true: the reference is what the code says, links lead somewhere, claims have their scripts."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paring.cli.chosen import chosen

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TUTORIALS = [page for page in PAGES if "block on this page is run by the tests" in page.read_text(encoding="utf-8")]


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == module.reference(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_benchmark_has_its_committed_result_and_the_other_way_round() -> None:
    scripts = (ROOT / "benchmarks").glob("*.py")
    benchmarks = {script.stem for script in scripts if "__main__" in script.read_text(encoding="utf-8")}
    assert benchmarks
    assert {result.stem for result in RESULTS.glob("*.json")} == benchmarks
    assert {page.stem for page in RESULTS.glob("*.md")} == benchmarks


def test_speed_ups_in_the_readme_are_those_of_committed_results() -> None:
    found = re.sub(r" to |-", "-", "\n".join(page.read_text(encoding="utf-8") for page in RESULTS.glob("*.md")))
    claims = re.findall(r"([\d.]+)x(?: \w+)* \(([\d.]+-[\d.]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(claims) >= 6
    for ratio, interval in claims:
        assert re.search(rf"\b{re.escape(ratio)}x?(?: \w+)* \({re.escape(interval)}\)", found), f"{ratio} ({interval})"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On cores that others use too, small networks run many times faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
@pytest.mark.usefixtures("one_thread")
def test_the_tutorials_run(page: Path) -> None:
    names: dict[str, object] = {}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_type_can_be_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text("def spread(evidence):\n    return evidence.weight.abs()\n")
    for kind, text in re.findall(r"--(technique|backend)s (\w[\w,]*|'[^']+')", page.read_text(encoding="utf-8")):
        assert chosen("technique" if kind == "technique" else "backend", text.strip("'"))
