"""Certificates for scores that are no mean over rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from paring.certify import certify, certify_corpus, paired_bootstrap_upper_bound
from paring.certify.corpus import bootstrap_scores, bootstrap_size, certify_drops
from paring.errors import TaskError


def f1(counts: np.ndarray) -> float:
    """From columns of hits, false alarms and misses."""
    hit, false_alarm, missed = counts.sum(0)
    return float(2 * hit / max(2 * hit + false_alarm + missed, 1))


def mean(counts: np.ndarray) -> float:
    return float(counts.mean())


def guesses(n: int, seed: int, worse: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Counts for F1, (n, 3), of an original and of a candidate that flips a share `worse` of its guesses."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    original = truth ^ (rng.random(n) < 0.08)
    candidate = original ^ (rng.random(n) < worse)
    first, second = (
        np.stack([guess & truth, guess & ~truth, ~guess & truth], 1).astype(float) for guess in (original, candidate)
    )
    return first, second


def test_an_f1_score_is_certified_approximately() -> None:
    original, candidate = guesses(1_500, 0)
    certificate = certify_corpus(original, candidate, f1, confidence=0.95)

    assert certificate.drop == pytest.approx(f1(original) - f1(candidate))
    assert certificate.drop + 0.002 < certificate.upper_bound < certificate.drop + 0.04
    assert certificate.approximate
    assert certificate.method == "bootstrap"
    assert certificate.n == 1_500
    assert certificate == certify_corpus(original, candidate, f1, confidence=0.95)


def test_on_a_mean_it_agrees_with_the_exact_bound() -> None:
    rng = np.random.default_rng(4)
    original = (rng.random(1_000) < 0.9).astype(float)
    candidate = np.where(rng.random(1_000) < 0.1, 1 - original, original)
    exact = certify(original, candidate, confidence=0.95)
    approximate = certify_corpus(original, candidate, mean, confidence=0.95)

    assert approximate.drop == pytest.approx(exact.drop)
    width = exact.upper_bound - exact.drop
    assert approximate.upper_bound == pytest.approx(exact.upper_bound, abs=0.15 * width)


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_scores_of_each_network_alone_are_paired_and_serve_every_confidence(rows: int) -> None:
    original = guesses(rows, 3)[0]
    first = np.array(list(bootstrap_scores(original, mean)))
    second = np.array(list(bootstrap_scores(original - 0.125, mean)))

    assert len(first) == bootstrap_size(rows)
    assert first - second == pytest.approx(np.full(len(first), 0.125)), "other rows were drawn for the second network"
    for confidence in (0.8, 0.95):
        found = certify_drops(first - second, rows, confidence=confidence)
        assert found == certify_corpus(original, original - 0.125, mean, confidence=confidence)


def test_more_finalists_widen_the_bound() -> None:
    scores = guesses(800, 1)
    bounds = [certify_corpus(*scores, f1, confidence=0.95, finalists=k).upper_bound for k in (1, 4, 20)]

    assert bounds[0] < bounds[1] < bounds[2]


def test_where_no_row_differs_it_still_allows_for_rows_not_seen() -> None:
    original, _ = guesses(600, 2)
    certificate = certify_corpus(original, original, f1, confidence=0.95)

    assert certificate.drop == 0
    assert certificate.upper_bound == pytest.approx(1 - 0.05 ** (1 / 600))
    in_points = certify_corpus(original, original, f1, confidence=0.95, score_range=(0, 100))
    assert in_points.upper_bound == pytest.approx(100 * certificate.upper_bound)


def test_a_single_row_is_certified_for_hardly_anything() -> None:
    one = np.array([[1.0, 0.0, 0.0]])

    assert certify_corpus(one, one, f1, confidence=0.95).upper_bound == pytest.approx(0.95)


def test_it_covers_about_as_often_as_it_says() -> None:
    draws, population = 150, guesses(200_000, 9)
    drop = f1(population[0]) - f1(population[1])
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(draws):
        rows = rng.integers(0, 200_000, 250)
        bound = paired_bootstrap_upper_bound(population[0][rows], population[1][rows], f1, 0.1, resamples=300)
        held += bound >= drop

    assert 0.9 - 3 * math.sqrt(0.09 / draws) <= held / draws <= 0.9 + 3.3 * math.sqrt(0.09 / draws)


@pytest.mark.parametrize(
    ("original", "candidate", "words"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), r"shape \(3, 2\).*shape \(2, 2\).*same rows"),
        (np.ones((0, 2)), np.ones((0, 2)), r"original statistics have shape \(0, 2\).*at least one"),
        (np.ones((2, 2)), np.array([[1.0, 1.0], [1.0, np.nan]]), "candidate statistics hold NaN or infinity in row 1"),
    ],
)
def test_statistics_that_cannot_be_paired_are_refused(original: Any, candidate: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        certify_corpus(original, candidate, mean, confidence=0.95)


def test_a_reduce_that_fails_on_a_resample_is_named() -> None:
    # One positive among five rows: a resample without it has no recall.
    counts = np.array([[1.0, 1.0], [0, 0], [0, 0], [0, 0], [0, 0]])

    def recall(rows: np.ndarray) -> float:
        hit, positive = rows.sum(0)
        return float(hit / positive) if positive else math.nan

    with pytest.raises(TaskError, match=r"reduce gave nan for 5 rows.*any rows"):
        certify_corpus(counts, counts, recall, confidence=0.95)
