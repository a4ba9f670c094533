"""Comparisons of deployments: what they report, when they stop, and what they do with faults."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.backends.isolated import Deployment, IsolatedSession
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.probe_network import probe_inputs, write_probe_network
from paring.errors import BackendError, BudgetError
from paring.measure import compare as comparing
from paring.measure import pairs as pairing
from paring.measure import yardstick as quick
from paring.measure.compare import Comparison, compare
from paring.measure.latency import Latency, Measured, Workload, block_plan, measure_alone
from paring.measure.pairs import Pair
from paring.measure.yardstick import Yardstick
from tests.faulty_backends import Faulty

SLOW = Deployment(Faulty("slow"), Path("none.onnx"))
FAST = Deployment(Faulty(), Path("none.onnx"))


@pytest.fixture
def workload(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 2), np.float32))
    return Workload({"x": tmp_path / "x.npy"}, batch_size=4, threads=1)


def check(result: Comparison) -> None:
    assert 0 < result.low <= result.ratio <= result.high
    assert result.width == pytest.approx((result.high - result.low) / result.ratio)
    for latency in (result.candidate, result.original):
        assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.throughput_per_s == pytest.approx(4 * 1000 / latency.p50_ms)
    assert min(result.candidate_peak_memory_bytes, result.original_peak_memory_bytes) > 2**20


def test_a_faster_candidate_has_a_ratio_above_one(workload):
    result = compare(FAST, SLOW, workload, time_limit_s=1.0)
    check(result)
    assert result.low > 1
    assert result.original.p50_ms >= 10
    assert result.pairs >= 2


def test_a_slower_candidate_has_a_ratio_below_one(workload):
    result = compare(SLOW, FAST, workload, time_limit_s=1.0)
    check(result)
    assert result.high < 1


def test_a_wide_enough_interval_ends_it_at_the_first_look(workload, monkeypatch):
    monkeypatch.setattr(comparing, "PAIR_TIME_S", 0.05)
    result = compare(FAST, SLOW, workload, time_limit_s=300.0, width=1000.0)
    assert result.pairs == comparing.LOOKS[0]


def test_a_yardstick_compares_many_candidates_with_one_original(workload):
    with Yardstick(SLOW, workload) as yardstick:
        first = yardstick.compare(FAST, time_limit_s=0.2)
        with IsolatedSession.of(SLOW, threads=1) as session:
            second = yardstick.compare_loaded(session, SLOW, time_limit_s=0.2)
    for result in (first, second):
        check(result)
        assert math.log(result.high / result.low) >= 2 * comparing.PROCESS_EFFECT / math.sqrt(3)
    assert first.low > second.high


def test_a_candidate_out_of_reach_gets_one_process_and_a_promising_one_several(workload):
    with Yardstick(SLOW, workload) as yardstick:
        fast, slow = (yardstick.compare(deployment, time_limit_s=0.2) for deployment in (FAST, SLOW))
    assert fast.pairs >= 2
    assert slow.pairs == 1


def test_a_candidate_whose_first_process_is_slow_for_life_is_not_lost(workload, monkeypatch):
    told = iter([_pair([0.0, 0.01]), _pair([0.7, 0.71]), _pair([0.69, 0.7])])
    monkeypatch.setattr(quick, "measured_pair", lambda *_: next(told))
    with Yardstick(SLOW, workload) as yardstick:
        result = yardstick.compare(FAST)
    assert result.ratio == pytest.approx(2, rel=0.02)
    assert result.pairs == 3


@pytest.mark.parametrize("call_s", [0.001, 0.06, 0.11])
def test_calls_are_timed_warm_however_little_time_there_is(call_s, workload, monkeypatch):
    """The process beside it has emptied the caches: a block of one call would tell of that alone."""
    plans = []

    def timed(session, workload, plan):
        plans.append(plan)
        return np.full(plan.runs, call_s * 1e9)

    monkeypatch.setattr(pairing, "warm_up", lambda *_: call_s)
    monkeypatch.setattr(pairing, "time_block", timed)
    with Yardstick(SLOW, workload) as yardstick:
        yardstick.compare(FAST, time_limit_s=0.2)
    assert plans
    assert all(plan.warm_runs and plan.runs > 1 and plan.blocks > 1 for plan in plans)


def test_a_candidate_beside_whom_others_worked_is_measured_again(workload, monkeypatch):
    told = iter([_pair([0.1, 0.9]), _pair([0.5, 0.5]), _pair([0.69, 0.7]), _pair([0.69, 0.7]), _pair([0.0, 0.0])])
    monkeypatch.setattr(quick, "measured_pair", lambda *_: next(told))
    with Yardstick(SLOW, workload) as yardstick:
        result = yardstick.compare(FAST)
    assert result.pairs == 4
    assert result.ratio == pytest.approx(1.9, rel=0.1)


def test_a_yardstick_whose_process_died_starts_it_again(workload):
    with Yardstick(SLOW, workload) as yardstick:
        yardstick.compare(FAST, time_limit_s=0.2)
        for standby in yardstick._originals:
            killed(standby.session())
        check(yardstick.compare(FAST, time_limit_s=0.2))


def killed(session: IsolatedSession) -> None:
    os.kill(session.pid, signal.SIGKILL)
    while session.alive:
        time.sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
def test_an_original_that_dies_beside_a_candidate_is_started_again_once(workload, monkeypatch, times):
    """As the system does where memory is short: it is no fault of the candidate."""
    left, time_block = [FAST] * times, pairing.time_block

    def timed(session, workload, plan):
        if session is not candidate and left:
            left.pop()
            killed(session)
        return time_block(session, workload, plan)

    monkeypatch.setattr(pairing, "time_block", timed)
    with Yardstick(SLOW, workload) as yardstick, IsolatedSession.of(SLOW, threads=1) as candidate:
        yardstick._fastest = 100.0  # One pair is enough.
        if times == 1:
            check(yardstick.compare_loaded(candidate, SLOW, time_limit_s=0.2))
        else:
            with pytest.raises(BackendError, match="SIGKILL"):
                yardstick.compare_loaded(candidate, SLOW, time_limit_s=0.2)


def test_a_candidate_that_dies_beside_the_original_is_an_error(workload):
    with Yardstick(SLOW, workload) as yardstick, IsolatedSession.of(FAST, threads=1) as candidate:
        killed(candidate)
        with pytest.raises(BackendError, match="SIGKILL"):
            yardstick.compare_loaded(candidate, FAST, time_limit_s=0.2)


@pytest.mark.parametrize("fault", ["exit", "load"])
@pytest.mark.parametrize("side", ["candidate", "original"])
def test_a_fault_of_either_side_is_an_error(fault, side, workload):
    broken = Deployment(Faulty(fault), Path("none.onnx"))
    pair = (broken, FAST) if side == "candidate" else (FAST, broken)
    with pytest.raises(BackendError, match=r"exit code 7|MemoryError"):
        compare(*pair, workload, time_limit_s=1.0)


def test_a_width_that_can_not_be_reached_is_refused(workload):
    with pytest.raises(BudgetError, match="width=0 must be above 0"):
        compare(FAST, SLOW, workload, width=0)


@pytest.mark.parametrize(("change", "message"), [({"batch_size": 0}, "batch_size=0"), ({"threads": 0}, "threads=0")])
def test_an_impossible_workload_is_refused(workload, change, message):
    with pytest.raises(BudgetError, match=message):
        replace(workload, **change)


def test_alone_a_real_network_is_measured_with_its_memory(tmp_path):
    network = write_probe_network("onnx", tmp_path)
    for name, array in probe_inputs(7).items():
        np.save(tmp_path / f"{name}.npy", array)
    work = Workload({name: tmp_path / f"{name}.npy" for name in ("a", "b")}, batch_size=3, threads=1)
    result = measure_alone(Deployment(OnnxRuntime(), network), work, time_limit_s=0.3)
    assert isinstance(result, Measured)
    assert result.latency.calls >= 1
    assert 10 * 2**20 < result.peak_memory_bytes < 2**30


def test_latency_is_told_in_milliseconds_and_rows():
    calls = np.arange(1, 101) * 1_000_000
    found = Latency.of(calls, batch_size=8)
    assert (found.p50_ms, found.calls) == (pytest.approx(50.5), 100)
    assert found.p90_ms == pytest.approx(np.quantile(calls, 0.9) / 1e6)
    assert found.p99_ms == pytest.approx(np.quantile(calls, 0.99) / 1e6)
    assert found.throughput_per_s == pytest.approx(8 / 0.0505)


@given(call_s=st.floats(1e-6, 100), time_s=st.floats(0.01, 10))
def test_a_plan_of_blocks_keeps_to_its_time(call_s, time_s):
    plan = block_plan(call_s, time_s)
    assert plan.blocks >= 1
    assert plan.runs >= 1
    least_s = plan.blocks * (plan.warm_runs + plan.runs) * call_s
    by_time_s = plan.blocks * (plan.block_time_s + (plan.warm_runs + 1) * call_s)
    assert max(least_s, by_time_s) <= max(1.5 * time_s, 3 * call_s)


def _pair(log_ratios):
    original = [np.array([1_000_000.0, 1_000_000.0]) for _ in log_ratios]
    candidate = [calls / math.exp(value) for calls, value in zip(original, log_ratios, strict=True)]
    return Pair(tuple(candidate), tuple(original))


def test_disturbed_calls_do_not_move_the_ratio():
    draw = np.random.default_rng(0)
    original = [draw.normal(1e6, 1e3, 20) for _ in range(8)]
    candidate = [draw.normal(0.5e6, 1e3, 20) for _ in range(8)]
    for calls in candidate:
        calls[:12] *= 5
    assert Pair(tuple(candidate), tuple(original)).log_ratio == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_with_few_processes_the_interval_owns_up_to_their_differences(pairs, workload):
    blocks = [_pair([0.1, 0.1001, 0.0999]) for _ in range(pairs)]
    result = Comparison.of(blocks, workload, 1)
    assert result.ratio == pytest.approx(math.exp(0.1), rel=1e-3)
    assert math.log(result.high / result.low) >= 2 * comparing.PROCESS_EFFECT / math.sqrt(pairs)


def test_looking_often_still_holds_the_truth():
    """The rule of compare, on made-up processes: stop at the first look whose interval is narrow."""
    draw = random.Random(0)
    held, runs = 0, 400
    for _ in range(runs):
        pairs = []
        for look, count in enumerate(comparing.LOOKS[:4], start=1):
            while len(pairs) < count:
                spike = 8 if draw.random() < 0.05 else 1
                pairs.append(_pair([draw.gauss(0, 0.01) * spike]))
            _, low, high = comparing._interval(pairs, 0.05 / 2**look)
            if high - low < 0.02:
                break
        held += low <= 0 <= high
    assert held / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
