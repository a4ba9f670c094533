"""Which sizes of which groups of channels are measured alone, where a search asks what each gains and loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from paring.graph.channels import ChannelGroup

RATIOS = (0.25, 0.5, 0.75)
MULTIPLES = (4, 16)
"""Sizes of a part: which of them the machine runs fast is measured, and one that gains nothing is not taken."""

MOST_PARTS = 36
"""With more the search would measure for too long, so that those groups that decide on little have one size only."""


def part_sizes(groups: Sequence[ChannelGroup], multiples: Sequence[int]) -> dict[str, list[int]]:
    """For each group the numbers of channels to measure, the largest first.

    About half of its channels; a quarter and three quarters too where that is not too many in all, first of groups that
    decide on most: a network's width, which nearly every layer reads, before the neurons of one layer.
    """
    sizes = {group.name: _sizes(group, RATIOS[1:2], multiples) for group in groups}
    for group in sorted(groups, key=_entries, reverse=True):
        more = _sizes(group, RATIOS, multiples)
        if sum(map(len, sizes.values())) - len(sizes[group.name]) + len(more) <= MOST_PARTS:
            sizes[group.name] = more
    return sizes


def _entries(group: ChannelGroup) -> int:
    """How many rows and columns of tensors all of its channels are."""
    return sum(member.indices.size for member in group.members)


def _sizes(group: ChannelGroup, ratios: Sequence[float], multiples: Sequence[int]) -> list[int]:
    """Numbers of channels about these shares of all."""
    found: set[int] = set()
    for ratio in ratios:
        wanted = group.channels * (1 - ratio)
        fine, *coarse = (multiple // math.gcd(multiple, group.width) for multiple in multiples)
        found |= {math.ceil(wanted / fine) * fine, *(max(1, round(wanted / each)) * each for each in coarse)}
    return sorted((kept for kept in found if kept < group.channels), reverse=True)
