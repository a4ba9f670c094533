"""What `make demo` prints, on scikit-learn's digits: three runs of it, each a search of its own.

    python benchmarks/demo.py [--runs 3]

The seeds differ from run to run, and with them the split, the search and the training. Writes results/demo.json and
.md: the figures of each run, and the summary of the one whose speed-up is the median.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from paring.report import units

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ARGUMENTS = ("--fresh", "--time-limit", "4m", "--max-drop", "0.02")
"""As in the Makefile."""

POINTS = units.ScoreUnit(fraction=True)


def demo(seed: int, out: Path) -> tuple[dict[str, Any], str]:
    """What one run found, and what it printed."""
    command = [sys.executable, "-m", "paring", "optimize", str(ROOT / "examples" / "digits.py"), "--out", str(out)]
    finished = subprocess.run(
        [*command, *ARGUMENTS, "--seed", str(seed)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    return json.loads((out / "result.json").read_text()), finished.stdout


def row(seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run."""
    return {
        "seed": seed,
        "recipe": found["best"]["recipe_text"],
        "backend": found["best"]["backend_text"],
        "speedup": found["speedup"],
        "speedup_over_source": found["speedup_over_source"],
        "upper_bound": found["certificate"]["upper_bound"],
        "n": found["certificate"]["n"],
        "wall_time_s": found["wall_time_s"],
    }


def as_markdown(rows: list[dict[str, Any]], printed: str, machine: dict[str, Any]) -> str:
    """The table that is committed beside the figures."""
    lines = [
        "# `make demo`: scikit-learn's digits, budget 2.0 points at 95 %",
        "",
        "| seed | recipe | backend | over the fastest original | over torch | certified drop at most | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        over, source = each["speedup"], each["speedup_over_source"]
        lines.append(
            f"| {each['seed']} | `{each['recipe']}` | `{each['backend']}` "
            f"| {units.ratio(over['ratio'])} ({units.interval(over['low'], over['high'])}) "
            f"| {units.ratio(source['ratio'])} ({units.interval(source['low'], source['high'])}) "
            f"| {POINTS.bound(each['upper_bound'])} | {each['wall_time_s']:.0f} |"
        )
    told = f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['isa'])}; {machine['packages']}."
    return "\n".join([*lines, "", "The run with the median speed-up:", "", "```", printed.strip(), "```", "", told, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = []
    for seed in range(parser.parse_args().runs):
        with tempfile.TemporaryDirectory() as folder:
            found, printed = demo(seed, Path(folder) / "demo")
        runs.append((row(seed, found), printed, found["hardware"]))
        print(json.dumps(runs[-1][0]), file=sys.stderr, flush=True)
    rows = [figures for figures, _, _ in runs]
    _, printed, machine = sorted(runs, key=lambda run: run[0]["speedup"]["ratio"])[len(runs) // 2]
    printed = "\n".join(line.rstrip() for line in printed.splitlines() if not line.startswith("report:"))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps({"runs": rows, "hardware": machine}, indent=2) + "\n")
    (RESULTS / "demo.md").write_text(as_markdown(rows, printed, machine))


if __name__ == "__main__":
    main()
