"""Is the certificate true, and how tight is it? Simulated coverage and width beside a normal approximation.

Run: python benchmarks/certificate.py [--draws 2000]. Writes results/certificate.json and results/certificate.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paring.certify import certify_corpus
from paring.ops.bounds import betting_upper_bound, normal_upper_bound
from paring.ops.paired_exact import ternary_upper_bound

Floats = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
CONFIDENCE = 0.95
WIDTH_DRAWS = 60
METHODS = ("normal", "exact", "betting")


@dataclass(frozen=True)
class Case:
    """A distribution of one row's difference: `values` with `probabilities`, as many rows as `n`."""

    name: str
    n: int
    values: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def drop(self) -> float:
        return float(np.dot(self.values, self.probabilities))

    @property
    def two_valued(self) -> bool:
        return set(self.values) == {-1.0, 0.0, 1.0}

    def draw(self, rng: np.random.Generator) -> Floats:
        return rng.choice(np.array(self.values), size=self.n, p=self.probabilities)


def right_or_wrong(n: int, lost: float, won: float) -> Case:
    return Case(f"0/1 scores, {lost:.2%} lost, {won:.2%} won", n, (1.0, -1.0, 0.0), (lost, won, 1 - lost - won))


CASES = (
    right_or_wrong(100, 0.03, 0.0),
    right_or_wrong(100, 0.10, 0.06),
    right_or_wrong(300, 0.01, 0.0),
    right_or_wrong(500, 0.006, 0.0),
    right_or_wrong(500, 0.06, 0.05),
    right_or_wrong(2_000, 0.003, 0.001),
    right_or_wrong(2_000, 0.10, 0.11),
    right_or_wrong(5_000, 0.06, 0.05),
    right_or_wrong(10_000, 0.005, 0.004),
    right_or_wrong(10_000, 0.0006, 0.0001),
    Case("shares, small and even", 500, (-0.1, -0.05, 0.0, 0.05, 0.15), (0.1, 0.2, 0.4, 0.2, 0.1)),
    Case("shares, rarely lost altogether", 200, (-0.01, 1.0), (0.98, 0.02)),
    Case("shares, rarely lost altogether", 2_000, (-0.01, 0.5), (0.99, 0.01)),
    Case("shares, often won a little", 1_000, (0.02, -0.04, 0.3), (0.6, 0.37, 0.03)),
)


def bounds_of(case: Case) -> dict[str, Callable[[Floats], float]]:
    """The methods that fit the case; exact bounds are kept by count."""
    alpha = 1 - CONFIDENCE
    known: dict[tuple[int, int], float] = {}

    def exact(rows: Floats) -> float:
        counts = int((rows > 0).sum()), int((rows < 0).sum())
        if counts not in known:
            known[counts] = ternary_upper_bound(*counts, len(rows), alpha)
        return known[counts]

    methods: dict[str, Callable[[Floats], float]] = {
        "normal": lambda rows: normal_upper_bound(rows, alpha),
        "betting": lambda rows: betting_upper_bound(rows, alpha),
    }
    return methods | ({"exact": exact} if case.two_valued else {})


def simulate(case: Case, draws: int, seed: int) -> dict[str, object]:
    """Share of draws whose bound is at or above the true drop, and the mean bound, for each method."""
    rng = np.random.default_rng(seed)
    methods = bounds_of(case)
    covered = dict.fromkeys(methods, 0)
    widths: dict[str, list[float]] = {name: [] for name in methods}
    for index in range(draws):
        rows = case.draw(rng)
        # Every bound is above this (checked on all that are computed), so that most need not be known.
        least = float(rows.mean() + rows.std() / math.sqrt(case.n))
        for name, bound_of in methods.items():
            if index >= WIDTH_DRAWS and least >= case.drop:
                covered[name] += 1
                continue
            bound = bound_of(rows)
            if bound < min(least, 1.0):
                raise AssertionError(f"{name}: the bound {bound} is within one standard error of the mean, {case}")
            covered[name] += bound >= case.drop
            if index < WIDTH_DRAWS:
                widths[name].append(bound)
    coverage = {name: count / draws for name, count in covered.items()}
    mean_bound = {name: float(np.mean(values)) for name, values in widths.items()}
    return asdict(case) | {"drop": case.drop, "draws": draws, "coverage": coverage, "mean_bound": mean_bound}


def simulate_bootstrap(draws: int, n: int = 400) -> dict[str, object]:
    """Coverage of the bootstrap for F1, whose true drop is taken from a million rows."""

    def f1(counts: Floats) -> float:
        hit, false_alarm, missed = counts.sum(0)
        return float(2 * hit / max(2 * hit + false_alarm + missed, 1))

    def draw(rng: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
        truth = rng.random(rows) < 0.25
        first = truth ^ (rng.random(rows) < 0.06)
        second = first ^ (rng.random(rows) < 0.03)
        made = (np.stack([guess & truth, guess & ~truth, ~guess & truth], axis=1) for guess in (first, second))
        original, candidate = (counts.astype(np.float64) for counts in made)
        return original, candidate

    rng = np.random.default_rng(5)
    original, candidate = draw(rng, 1_000_000)
    drop = f1(original) - f1(candidate)
    bounds = [certify_corpus(*draw(rng, n), f1, confidence=CONFIDENCE).upper_bound for _ in range(draws)]
    covered = float(np.mean(np.array(bounds) >= drop))
    return {
        "name": "F1",
        "n": n,
        "drop": drop,
        "draws": draws,
        "coverage": covered,
        "mean_bound": float(np.mean(bounds)),
    }


def headline(n: int, lost: int, won: int) -> dict[str, object]:
    """The bounds for one outcome, and the seconds that they took; betting on 20 orders of the rows."""
    rows = np.repeat([1.0, -1.0, 0.0], [lost, won, n - lost - won])
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    exact = ternary_upper_bound(lost, won, n, 1 - CONFIDENCE)
    exact_s = time.perf_counter() - start
    bets = [betting_upper_bound(rng.permutation(rows), 1 - CONFIDENCE) for _ in range(20)]
    betting_s = (time.perf_counter() - start - exact_s) / len(bets)
    return {
        "n": n, "regressions": lost, "fixes": won, "drop": (lost - won) / n,
        "normal": normal_upper_bound(rows, 1 - CONFIDENCE), "exact": exact,
        "betting": float(np.mean(bets)), "betting_lowest": min(bets), "betting_highest": max(bets),
        "exact_s": round(exact_s, 3), "betting_s": round(betting_s, 3),
    }  # fmt: skip


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows]]
    return "\n".join(lines)


def outcome_row(r: dict) -> list[str]:
    spread = f"{r['betting']:.5f} ({r['betting_lowest']:.5f} to {r['betting_highest']:.5f})"
    seen = [f"{r['n']:,}", f"{r['regressions']:,}", f"{r['fixes']:,}", f"{r['drop']:.5f}"]
    return [*seen, f"{r['normal']:.5f}", f"{r['exact']:.5f}", spread]


def coverage_row(r: dict) -> list[str]:
    holds = [f"{r['coverage'][method]:.2%}" if method in r["coverage"] else "-" for method in METHODS]
    bounds = [f"{r['mean_bound'][method]:.4f}" if method in r["mean_bound"] else "-" for method in METHODS]
    return [r["name"], f"{r['n']:,}", f"{r['drop']:.4f}", *holds, *bounds]


def page(results: dict[str, list[dict]]) -> str:
    """The results as people read them."""
    boot = results["bootstrap"][0]
    draws = results["coverage"][0]["draws"]
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)
    heads = [*(f"{method} holds" for method in METHODS), *(f"{method} bound" for method in METHODS)]
    parts = [
        "# The certificate: is it true, and how tight?",
        f"Upper bounds at {CONFIDENCE:.0%} for one outcome; betting over 20 orders of the same rows.",
        table(["rows", "regressions", "fixes", "drop seen", *METHODS], [outcome_row(r) for r in results["outcomes"]]),
        f"Share of {draws:,} draws whose bound holds (wanted: {CONFIDENCE:.0%}; standard error {error:.2%}), and the "
        f"mean bound over {WIDTH_DRAWS} of them. The normal approximation is here to compare, and is not used.",
        table(["rows' differences", "rows", "true drop", *heads], [coverage_row(r) for r in results["coverage"]]),
        f"Paired bootstrap for F1 (approximate): holds in {boot['coverage']:.1%} of {boot['draws']} draws of "
        f"{boot['n']} rows; true drop {boot['drop']:.4f}, mean bound {boot['mean_bound']:.4f}.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    start = time.perf_counter()
    outcomes = [
        headline(10_000, 50, 40),
        headline(10_000, 0, 0),
        headline(5_000, 300, 250),
        headline(50_000, 8_000, 7_800),
    ]
    with ProcessPoolExecutor(arguments.workers) as pool:
        # The longest first, so that no worker ends with it alone.
        order = sorted(range(len(CASES)), key=lambda index: -CASES[index].n)
        futures = {index: pool.submit(simulate, CASES[index], arguments.draws, index) for index in order}
        bootstrap = pool.submit(simulate_bootstrap, arguments.draws // 5)
        coverage = [futures[index].result() for index in range(len(CASES))]
        results = {"outcomes": outcomes, "coverage": coverage, "bootstrap": [bootstrap.result()]}
    RESULTS.mkdir(exist_ok=True)
    seconds = round(time.perf_counter() - start)
    (RESULTS / "certificate.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "certificate.md").write_text(page(results))
    print(page(results), f"{seconds} s", sep="\n")


if __name__ == "__main__":
    main()
