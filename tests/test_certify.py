"""Certificates, as the search and its users see them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paring.certify import Certificate, certify, rows_needed, smallest_certifiable_drop
from paring.errors import ArtifactError, BudgetError, InputError, TaskError


def right_or_wrong(n: int, regressions: int, fixes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 0 and 1 of an original and a candidate that differ in so many rows."""
    original, candidate = np.ones(n), np.ones(n)
    candidate[:regressions] = 0
    original[regressions : regressions + fixes] = 0
    return original, candidate


def test_fifty_regressions_and_forty_fixes_in_ten_thousand() -> None:
    certificate = certify(*right_or_wrong(10_000, 50, 40), confidence=0.95)

    assert certificate.drop == pytest.approx(0.001)
    assert certificate.upper_bound < 0.0027
    assert (certificate.n, certificate.method, certificate.confidence) == (10_000, "exact", 0.95)
    assert (certificate.regressions, certificate.fixes, certificate.finalists) == (50, 40, 1)
    assert certificate.meets(0.003)
    assert not certificate.meets(0.002)
    assert not certificate.approximate


def test_graded_scores_are_certified_by_betting() -> None:
    rng = np.random.default_rng(0)
    original = rng.uniform(0.4, 1, 3_000)
    certificate = certify(original, np.clip(original - rng.normal(0.01, 0.05, 3_000), 0, 1), confidence=0.95)

    assert certificate.method == "betting"
    assert certificate.drop < certificate.upper_bound < certificate.drop + 0.01
    assert certificate.regressions is None
    assert certificate.fixes is None


def test_both_methods_can_be_asked_for() -> None:
    scores = right_or_wrong(2_000, 20, 10)
    exact = certify(*scores, confidence=0.95, method="exact")
    betting = certify(*scores, confidence=0.95, method="betting")

    assert (exact.method, betting.method) == ("exact", "betting")
    assert exact.upper_bound < betting.upper_bound < 2 * exact.upper_bound
    assert betting.regressions == 20


def test_a_better_candidate_is_certified_below_zero() -> None:
    certificate = certify(*right_or_wrong(5_000, 50, 150), confidence=0.95)

    assert certificate.drop == pytest.approx(-0.02)
    assert -0.02 < certificate.upper_bound < 0
    assert certificate.meets(0)


@pytest.mark.parametrize("method", ["exact", "betting"])
def test_more_finalists_and_more_confidence_widen_the_bound(method: str) -> None:
    scores = right_or_wrong(1_000, 12, 6)

    def bound(confidence: float, finalists: int) -> float:
        return certify(*scores, confidence=confidence, finalists=finalists, method=method).upper_bound  # type: ignore[arg-type]

    assert bound(0.8, 1) < bound(0.95, 1) < bound(0.99, 1) < bound(0.999, 1)
    assert bound(0.95, 1) < bound(0.95, 5) < bound(0.95, 50)
    assert bound(0.95, 5) == pytest.approx(bound(0.99, 1), rel=1e-3)


@given(regressions=st.integers(0, 40), fixes=st.integers(0, 40), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_an_exact_certificate_does_not_depend_on_the_order(regressions: int, fixes: int, seed: int) -> None:
    original, candidate = right_or_wrong(200, regressions, fixes)
    order = np.random.default_rng(seed).permutation(200)

    shuffled = certify(original[order], candidate[order], confidence=0.95)
    assert shuffled == certify(original, candidate, confidence=0.95)
    assert shuffled.upper_bound >= shuffled.drop


@given(low=st.floats(-50, 50), span=st.floats(0.1, 200), graded=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_certificate_moves_with_the_score_range(low: float, span: float, graded: bool) -> None:
    original, candidate = right_or_wrong(60, 9, 4)
    if graded:
        candidate[20:40] = 0.75
    plain = certify(original, candidate, confidence=0.9)
    moved = certify(low + span * original, low + span * candidate, confidence=0.9, score_range=(low, low + span))

    assert moved.method == plain.method == ("betting" if graded else "exact")
    assert moved.drop == pytest.approx(span * plain.drop, abs=1e-9 * (span + abs(low)))
    assert moved.upper_bound == pytest.approx(span * plain.upper_bound, rel=1e-4)


def test_scores_may_be_booleans_or_float32() -> None:
    original, candidate = right_or_wrong(500, 7, 3)
    expected = certify(original, candidate, confidence=0.95)

    assert certify(original.astype(bool), candidate.astype(bool), confidence=0.95) == expected
    assert certify(original.astype(np.float32), candidate.astype(np.float32), confidence=0.95) == expected
    assert certify(original.tolist(), candidate.tolist(), confidence=0.95) == expected


def test_rounding_beyond_the_range_is_forgiven() -> None:
    over = np.full(50, np.nextafter(np.float32(1), np.float32(2)), dtype=np.float32)

    assert certify(over, over, confidence=0.95).drop == 0


@pytest.mark.parametrize(
    ("original", "candidate", "words"),
    [
        ([1, 0, 37.5], [1, 0, 1], r"original_scores holds 37\.5 in row 2.*score_range=\(0\.0, 1\.0\)"),
        ([1, 0, 1], [1, -0.2, 1], r"candidate_scores holds -0\.2 in row 1.*Task\(\.\.\., score_range="),
        ([1, float("nan")], [1, 1], "original_scores holds nan in row 1"),
        ([1, 1], [float("inf"), 1], "candidate_scores holds inf in row 0"),
        ([1, 1, 1], [1, 1], "3 original_scores and 2 candidate_scores.*same rows"),
        ([], [], r"original_scores has shape \(0,\).*at least one row"),
        ([[1, 0]], [[1, 0]], r"shape \(1, 2\).*one score for each row"),
        (1.0, 1.0, r"shape \(\)"),
    ],
)
def test_scores_that_cannot_be_certified_are_refused(original: object, candidate: object, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        certify(original, candidate, confidence=0.95)  # type: ignore[arg-type]


def test_settings_that_make_no_sense_are_refused() -> None:
    scores = right_or_wrong(10, 1, 0)
    with pytest.raises(InputError, match=r"confidence=1\.0"):
        certify(*scores, confidence=1.0)
    with pytest.raises(InputError, match="confidence=95"):
        certify(*scores, confidence=95)
    with pytest.raises(InputError, match="finalists=0"):
        certify(*scores, confidence=0.95, finalists=0)
    with pytest.raises(TaskError, match=r"score_range=\(1, 0\)"):
        certify(*scores, confidence=0.95, score_range=(1, 0))
    with pytest.raises(InputError, match="'exact' needs scores"):
        certify([0.5, 1], [1, 1], confidence=0.95, method="exact")
    with pytest.raises(InputError, match="method='bootstrap'"):
        certify(*scores, confidence=0.95, method="bootstrap")


@pytest.mark.parametrize("method", ["exact", "betting"])
@pytest.mark.parametrize("n", [1, 40, 1_000])
def test_smallest_certifiable_drop_is_the_bound_where_no_row_differs(n: int, method: str) -> None:
    same = np.ones(n)
    certificate = certify(same, same, confidence=0.95, finalists=3, method=method)  # type: ignore[arg-type]

    smallest = smallest_certifiable_drop(n, 0.95, 3, method=method)  # type: ignore[arg-type]
    assert smallest == pytest.approx(certificate.upper_bound)
    assert smallest >= 1 - (0.05 / 3) ** (1 / n)
    assert smallest_certifiable_drop(n, 0.95, 3, (0, 100), method) == pytest.approx(100 * smallest)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["exact", "betting"])
@pytest.mark.parametrize(("max_drop", "finalists"), [(0.01, 1), (0.01, 8), (0.2, 1), (0.0015, 2)])
def test_rows_needed_are_just_enough(max_drop: float, finalists: int, method: str) -> None:
    needed = rows_needed(max_drop, 0.95, finalists, method=method)  # type: ignore[arg-type]

    assert smallest_certifiable_drop(needed, 0.95, finalists, method=method) <= max_drop  # type: ignore[arg-type]
    assert smallest_certifiable_drop(needed - 1, 0.95, finalists, method=method) > max_drop  # type: ignore[arg-type]


def test_rows_needed_at_the_ends() -> None:
    assert rows_needed(1.0, 0.95) == 1
    assert 300 <= rows_needed(0.01, 0.95) <= 310
    assert rows_needed(1.0, 0.95, score_range=(0, 100)) == rows_needed(0.01, 0.95)
    with pytest.raises(BudgetError, match=r"max_drop=0 can't be certified.*above 0"):
        rows_needed(0, 0.95)
    with pytest.raises(TaskError, match="n=0 rows"):
        smallest_certifiable_drop(0, 0.95)


def test_json_holds_the_certificate() -> None:
    certificate = certify(*right_or_wrong(300, 5, 2), confidence=0.9, finalists=4)
    values = json.loads(json.dumps(certificate.to_json()))

    assert {"drop", "upper_bound", "confidence", "n", "method"} <= set(values)
    assert values["approximate"] is False
    assert Certificate.from_json(values) == certificate
    assert Certificate.from_json(values | {"of a newer version": 1}) == certificate


def test_json_of_least_content_is_read() -> None:
    values = {"drop": 0.0, "upper_bound": 0.01, "confidence": 0.95, "n": 10, "method": "bootstrap"}

    assert Certificate.from_json(values).approximate
    assert Certificate.from_json(values).finalists == 1


@pytest.mark.parametrize(
    "damage",
    [{"method": "guess"}, {"n": 0}, {"upper_bound": -1.0}, {"confidence": 2}, {"n": "many"}, {"drop": None}],
)
def test_damaged_json_is_refused(damage: dict[str, object]) -> None:
    values = certify(*right_or_wrong(300, 5, 2), confidence=0.9).to_json()

    with pytest.raises(ArtifactError, match="can't be read"):
        Certificate.from_json(values | damage)
    with pytest.raises(ArtifactError, match="n"):
        Certificate.from_json({key: value for key, value in values.items() if key != "n"})


def test_a_certificate_reads_as_a_sentence() -> None:
    text = str(certify(*right_or_wrong(10_000, 50, 40), confidence=0.95, finalists=3))

    assert "with 0.95 confidence, shared by 3 finalists" in text
    assert "seen 0.001 on 10000 rows, 50 regressions and 40 fixes; exact" in text
    assert "approximate" in str(Certificate(0.01, 0.02, 0.95, 100, "bootstrap"))
