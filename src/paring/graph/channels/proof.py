"""A removal with its proof: the smaller network, and which numbers of one's own had to change for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice

import torch
from torch import nn

from paring.errors import TechniqueError, in_words
from paring.graph.channels.groups import ChannelGroup
from paring.graph.channels.remove import remove_channels
from paring.graph.channels.sizes import Attribute, Removal, resized_attributes, undocumented
from paring.graph.channels.trace import Trace
from paring.graph.channels.verify import check_removal, run, without_channels
from paring.graph.copies import copied
from paring.types import Inputs

MOST_CHOICES = 32


def proven_removal(
    traced: Trace,
    model: nn.Module,
    probes: Sequence[Inputs],
    groups: Sequence[ChannelGroup],
    removal: Removal,
    trains: bool,
) -> nn.Module:
    """The network without these channels. TechniqueError where it does not do what it did with them at zero.

    Nor may it fail in training mode where the original `trains`: a part that runs in training alone, as an auxiliary
    head does, is not in the trace. A number that a class of one's own keeps, and that equals a size by its value alone,
    is rewritten only where the proof fails without that.
    """
    own_sizes = undocumented(model, resized_attributes(model, groups, removal))

    def without(own_sizes: Sequence[Attribute]) -> nn.Module | TechniqueError:
        smaller = remove_channels(model, groups, removal, own_sizes)
        try:
            for inputs in probes:
                check_removal(traced, model, smaller, inputs, groups, removal)
        except TechniqueError as error:
            return error
        failure = training_failure(smaller, probes[0]) if trains else ""
        if failure:
            told = f"the network does not train any more: in training mode {failure}"
            return TechniqueError(f"{without_channels(removal)} {told}")
        return smaller

    result = without(())
    if isinstance(result, nn.Module):
        return result
    smaller = _fewest(without, own_sizes) if own_sizes else None
    if smaller is None:
        raise result
    return smaller


def training_failure(model: nn.Module, inputs: Inputs) -> str:
    """Why a forward in training mode fails; empty where it runs."""
    try:
        with torch.random.fork_rng(devices=[]):
            run(copied(model).train(), inputs)
    except TechniqueError as error:
        return str(error)
    except Exception as error:  # `train` may be anybody's code, too.
        return in_words(error)
    return ""


def _fewest(without: Callable[[Sequence[Attribute]], object], attributes: Sequence[Attribute]) -> nn.Module | None:
    """The network that is proven with as few of the attributes rewritten as possible; None where none is."""
    kept, smaller = tuple(attributes), without(attributes)
    if isinstance(smaller, nn.Module):
        for attribute in attributes:
            fewer = tuple(other for other in kept if other is not attribute)
            if fewer and isinstance(found := without(fewer), nn.Module):
                kept, smaller = fewer, found
        return smaller
    found_all = (without(chosen) for chosen in _choices(attributes))
    return next((found for found in found_all if isinstance(found, nn.Module)), None)


def _choices(attributes: Sequence[Attribute]) -> Iterator[tuple[Attribute, ...]]:
    """Some of the attributes, the fewest first."""
    every = (chosen for size in range(1, len(attributes)) for chosen in combinations(attributes, size))
    return islice(every, MOST_CHOICES)
