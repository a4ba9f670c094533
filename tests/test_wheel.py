"""The wheel that is built holds what a user needs, and runs without the source beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import paring

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (built,) = folder.glob("paring-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "src"
    files = {
        path.relative_to(package).as_posix()
        for path in (package / "paring").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {"paring/report/page.css", "paring/report/page.js"} <= packed


def test_the_wheel_names_its_command_and_its_licence(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        described = [name for name in archive.namelist() if ".dist-info/" in name]
        told = {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in described}
    assert "paring = paring.cli:main" in told["entry_points.txt"]
    assert "Requires-Dist: torch==2.13.0" in told["METADATA"], "a range would let pip choose a build of gigabytes"
    assert "Apache License" in told["licenses/LICENSE"]


def test_the_wheel_runs_alone(wheel: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    command = [sys.executable, "-m", "paring", "--version"]
    finished = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == paring.__version__
    where = [sys.executable, "-c", "import paring; print(paring.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert str(wheel) in found.stdout
