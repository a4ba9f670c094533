"""Which numbers of channels run fast here: found by timing, and what is kept of a group is rounded up to them."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paring.backends.base import Backend
from paring.backends.multiples import fast_multiple
from paring.backends.onnxruntime import OnnxRuntime
from paring.backends.openvino import OpenVINO
from paring.errors import BackendError
from paring.ops.multiples import STEPS, free_step
from paring.techniques import PruneChannels, prune_channels
from tests.faulty_backends import AbortsAsItLoads
from tests.structures import job_of

WIDTHS = range(33, 49)


@given(st.sampled_from(STEPS), st.floats(1.0, 3.0), st.integers(0, 2**32))
def test_what_goes_by_whole_vectors_is_rounded_up_to_them(step: int, power: float, seed: int) -> None:
    """A part of a vector takes the time of a whole one, within what timings differ by chance."""
    chance = Random(seed)
    times = {width: ceil(width / step) ** power * chance.uniform(1, 1.004) for width in WIDTHS}
    assert step <= free_step([times]) <= max(4, step)


def test_sizes_that_are_slow_beside_multiples_are_rounded_up_to_these() -> None:
    assert free_step([{width: width * (1.0 if width % 8 == 0 else 1.4) for width in WIDTHS}]) == 8


def test_where_time_goes_by_the_size_a_share_is_met_almost_exactly() -> None:
    assert free_step([{width: float(width) for width in WIDTHS}]) <= 2


def test_where_the_size_makes_no_difference_as_many_stay_as_may() -> None:
    assert free_step([dict.fromkeys(WIDTHS, 1.0)]) == 16


@pytest.mark.parametrize("backend", [OnnxRuntime, OpenVINO])
def test_a_runtime_tells_by_being_timed(backend: type[Backend]) -> None:
    assert fast_multiple(backend) in STEPS
    assert fast_multiple(backend) == fast_multiple(backend)


def test_a_runtime_that_dies_is_told() -> None:
    with pytest.raises(BackendError):
        fast_multiple(AbortsAsItLoads)


@pytest.mark.parametrize(("measured", "kept"), [(1, 19), (4, 20), (8, 24), (16, 24)])
def test_channels_are_rounded_up_to_what_was_measured(
    measured: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_channels, "fast_multiple", lambda: measured)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    technique, job = PruneChannels(ratio=0.42), job_of(model, torch.randn(8, 4))
    assert technique.apply(model, job).get_submodule("0").out_features == kept
    assert PruneChannels(ratio=0.42, round_to=16).apply(model, job).get_submodule("0").out_features == 32
