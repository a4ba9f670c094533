"""A network whose training steps a compiler has fused."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from paring.errors import ParingError, in_words


@contextmanager
def compiled(model: nn.Module, first: Callable[[nn.Module], None], say: Callable[[str], None]) -> Iterator[nn.Module]:
    """Within, the network as `torch.compile` has it, with the same weights; itself where that fails, which is said.

    `first` is a step forth and back with a first batch: by it the network is compiled, and left as it was. Batches of
    other shapes go through the network itself, since compiling takes about a minute.
    """
    begin_s = time.monotonic()
    try:
        with warnings.catch_warnings():
            # Of the compiler about itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            quick = cast(nn.Module, torch.compile(model))
            reason = _failure(quick, first)
        if reason:
            say(f"training without the compiler, which fails: {reason}")
            yield model
        else:
            say(f"compiled the network in {time.monotonic() - begin_s:.0f} s")
            with torch.compiler.set_stance("eager_on_recompile"):
                yield quick
    finally:
        # A compiler gives up on code that it has compiled for many networks.
        torch.compiler.reset()


def _failure(quick: nn.Module, first: Callable[[nn.Module], None]) -> str:
    """Why a step fails; empty where it does not. Of the step nothing stays."""
    buffers = [(buffer, buffer.clone()) for buffer in quick.buffers()]
    state = torch.get_rng_state()
    try:
        first(quick)
    except ParingError:
        raise
    except Exception as error:  # A compiler fails in ways of its own, such as by a command that is not installed.
        return in_words(error)
    finally:
        torch.set_rng_state(state)
        quick.zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return ""
