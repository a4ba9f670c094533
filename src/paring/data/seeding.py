"""The same draws in every process: data that is shuffled or augmented begins from a seed wherever rows are kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators begin at `seed` within, and go on afterwards as if unused.

    That covers a DataLoader that shuffles, and its workers. A generator that the data brings along is its own matter.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed % 2**64)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
