"""Channel pruning: the least important channels are physically taken out, so that every runtime has less to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import torch
from torch import nn

from paring.backends.multiples import fast_multiple
from paring.data.batches import first_rows
from paring.data.job import SAMPLE_ROWS, Job
from paring.errors import TechniqueError
from paring.graph.attention import place_of, with_split_attention
from paring.graph.channels import ChannelGroup, Removal, frozen_layers
from paring.graph.copies import copied
from paring.graph.macs import layer_costs
from paring.graph.weights import check_modules
from paring.ops.importance import OF_GRADIENTS, Criterion, criterion_of, importance
from paring.settings import check_once, check_types
from paring.techniques.base import ModuleTechnique, Part
from paring.techniques.channel_parts import MULTIPLES, part_sizes
from paring.techniques.channel_plan import ChannelPlan
from paring.techniques.layer_coverage import nothing_fits
from paring.train.gradients import labelled_rows
from paring.types import Coverage, LayerChange, Task

LADDER = (0.5, 0.375, 0.625, 0.25, 0.75)
OTHER_CRITERIA = ("geometric_median", "wanda")
"""Raced against the default for the same sizes: they need no labels, so that no task is without them."""

GroupSizes: TypeAlias = Mapping[str, int]
"""Name of a channel group -> how many channels it has, or is to have."""


@dataclass(frozen=True)
class PruneChannels(ModuleTechnique):
    """Remove a share of the channels of every group of coupled layers, the least important first.

    `ratio` is the share that goes from each group; `ratios` sets it for single groups, named by any layer that makes
    their channels. What is kept is rounded up to a multiple of `round_to` channels, so never more than the share goes:
    without it of what this machine runs as fast as fewer, which is measured (`backends.multiples`), or of less where
    that is more than a quarter of the group.
    `criterion` is a name from `ops.importance` or a function of a group's weights.

    Coupled channels are found on the traced graph (after Fang et al. 2023, DepGraph; there by rules for module types
    and by whole layers, here by operator and by single channels). Channels that can't be followed are left alone, with
    the reason in the coverage. The result is checked, in double precision, on calibration rows and on random ones in
    their range: it gives what the original gives with the removed channels at zero, and still runs in training mode if
    the original does. A group that fails this check is left alone too; TechniqueError where none is left, or where
    `ratios` asked for it. `nn.MultiheadAttention` is taken apart for that, into layers `query`, `key`, `value` and
    `out_proj`, and put back where it lost nothing.
    """

    ratio: float = 0.5
    criterion: str | Criterion = "magnitude_l2"
    round_to: int | None = None
    ratios: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        check_once("ratios", self.ratios)
        told = [("ratio", self.ratio), *((f"ratio of {layer!r}", ratio) for layer, ratio in self.ratios)]
        for name, ratio in told:
            if not 0 <= ratio < 1:
                raise TechniqueError(f"{name}={ratio} must be at least 0 and below 1: the share of channels to remove.")
        if self.round_to is not None and self.round_to < 1:
            raise TechniqueError(f"round_to={self.round_to} must be 1 or more: the kept channels are a multiple of it.")
        criterion_of(self.criterion)

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError for layers in `ratios` that are unknown or can't be pruned, and for missing labels."""
        if criterion_of(self.criterion) in OF_GRADIENTS:
            labelled_rows(task, 1)
        if self.ratios:
            check_modules([layer for layer, _ in self.ratios], with_split_attention(copied(model)), "ratios")
            self._ratios(ChannelPlan.of(model, Job(task, first_rows(task.evaluate, SAMPLE_ROWS, "evaluate"))).groups)

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """The network with fewer channels; an unchanged copy where the ratios come to less than one multiple.

        TechniqueError where no channels can go at all.
        """
        plan = ChannelPlan.of(model, job)
        sizes = self.sizes(plan)
        if self.ratio or self.ratios:
            _free(plan)
        return self.narrowed(plan, sizes, job)

    def sizes(self, plan: ChannelPlan) -> GroupSizes:
        """How many channels of each group stay."""
        ratios = self._ratios(plan.groups)
        return {
            group.name: group.channels if group.frozen else self.kept(group, ratios[group.name], plan.job)
            for group in plan.groups
        }

    def narrowed(self, plan: ChannelPlan, sizes: GroupSizes, job: Job) -> nn.Module:
        """The network with so many channels in each group; an unchanged copy where these are all."""
        removal = self.removal(plan, sizes)
        if not removal:
            return plan.original
        try:
            return plan.without(removal)
        except TechniqueError as error:
            job.say(f"{self.name}: {error}; trying its groups one by one")
            return self._what_works(plan, removal, error)

    def _what_works(self, plan: ChannelPlan, removal: Removal, error: TechniqueError) -> nn.Module:
        """The network without the channels of the groups that pass the check alone."""
        working: dict[str, tuple[int, ...]] = {}
        asked = {layer for layer, ratio in self.ratios if ratio > 0}
        for group in plan.groups:
            if group.name not in removal:
                continue
            refusal = plan.refusal(group, removal[group.name])
            if refusal and asked.intersection(group.layers):
                raise TechniqueError(f"{group.name!r} can't be pruned: {refusal}.")
            if not refusal:
                working[group.name] = removal[group.name]
        if not working or len(working) == len(removal):
            raise TechniqueError(f"{self.name} can't be applied: {error}.") from error
        return plan.without(working)

    def removal(self, plan: ChannelPlan, sizes: GroupSizes) -> Removal:
        """Which channels go from which group."""
        removal: dict[str, tuple[int, ...]] = {}
        for group in plan.groups:
            # One that a removal has made is not among the sizes, as where a depthwise convolution lost all but one.
            count = 0 if group.frozen else group.channels - sizes.get(group.name, group.channels)
            if count:
                scores = importance(self.criterion, plan.evidence(group), group.name)
                removal[group.name] = tuple(sorted(scores.argsort(stable=True)[:count].tolist()))
        return removal

    def kept(self, group: ChannelGroup, ratio: float, job: Job) -> int:
        """Channels of a group that stay: rounded up to whole multiples, at least one multiple, at most all."""
        step = self._step(group, job)
        multiples = math.ceil(group.channels * (1 - ratio) / step - 1e-9)
        return min(group.channels, max(multiples, 1) * step) if ratio else group.channels

    def _step(self, group: ChannelGroup, job: Job) -> int:
        """What sizes are rounded up to, in channels; where it is the machine's, at most a quarter of the group."""
        multiple = self.round_to or job.measured("channel_multiple", fast_multiple)
        step = multiple // math.gcd(multiple, group.width)
        while not self.round_to and step > max(1, group.channels // 4):
            step //= 2
        return step

    def _ratios(self, groups: tuple[ChannelGroup, ...]) -> dict[str, float]:
        """The ratio of every group. TechniqueError for a layer that is unknown or can't be pruned."""
        result = {group.name: self.ratio for group in groups}
        told: dict[str, tuple[str, float]] = {}
        for layer, ratio in self.ratios:
            named = [group for group in groups if layer == group.name or layer in group.layers]
            if not named:
                known = sorted({name for group in groups for name in group.layers})
                close = ", ".join(difflib.get_close_matches(layer, known, n=3, cutoff=0.0)) or "no layer does"
                raise TechniqueError(
                    f"ratios names {layer!r}, which makes no channels: use a layer that does ({close})."
                )
            if ratio > 0 and all(group.frozen for group in named):
                raise TechniqueError(f"{layer!r} can't be pruned: {named[0].frozen}.")
            for group in named:
                if told.setdefault(group.name, (layer, ratio))[1] != ratio:
                    first, other = told[group.name]
                    raise TechniqueError(
                        f"ratios gives {first!r} {other} and {layer!r} {ratio}, and they make the same channels: give "
                        "both one ratio."
                    )
                result[group.name] = ratio
        return result

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Every weighted layer: its old and new size, or why it kept its size."""
        plan = ChannelPlan.of(before, job)
        removal = self.removal(plan, self.sizes(plan))
        shapes = {name: parameter.shape for name, parameter in after.named_parameters(remove_duplicate=False)}
        changes = []
        for layer, cost in layer_costs(plan.model, plan.inputs).items():
            module = plan.model.get_submodule(layer)
            names = {name: f"{layer}.{name}" if layer else name for name, _ in module.named_parameters(recurse=False)}
            resized = [
                f"{name} {'x'.join(map(str, parameter.shape))} -> {'x'.join(map(str, shapes[names[name]]))}"
                for name, parameter in module.named_parameters(recurse=False)
                if names[name] in shapes and shapes[names[name]] != parameter.shape
            ]
            making = [group for group in plan.groups if layer in group.layers]
            kept = [group for group in making if _outputs_kept(group, layer, plan.model, shapes)]
            reason = ", ".join(resized) or self._reason(plan, removal, layer, making)
            if resized and kept:
                reason += f"; outputs kept: {self._reason(plan, removal, layer, kept)}"
            changes.append(LayerChange(place_of(layer, after), bool(resized), reason, cost.parameters, cost.macs))
        return Coverage(str(self), tuple(changes))

    def _reason(self, plan: ChannelPlan, removal: Removal, layer: str, groups: Sequence[ChannelGroup]) -> str:
        """Why a layer kept its size, or the channels of these groups, which it makes."""
        if not groups:
            return frozen_layers(plan.traced).get(layer, "makes no more than one channel, or takes no part")
        group = groups[0]
        if group.frozen:
            return group.frozen
        if group.name not in removal:
            ratio = self._ratios(plan.groups)[group.name]
            step = self._step(group, plan.job) * group.width
            return f"ratio {ratio} in multiples of {step} keeps all {group.channels} channels"
        return plan.refusal(group, removal[group.name]) or "is as it was"

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """A ladder of ratios, kept channels in multiples of what this machine runs fast and of half of it, each once.

        Raises TechniqueError where the network can't be traced, or no channels can go.
        """
        plan = ChannelPlan.of(model, job)
        free = _free(plan)
        whole = tuple(group.channels for group in free)
        seen = {whole}
        fast = job.measured("channel_multiple", fast_multiple)
        multiples = (fast, max(1, fast // 2))
        for ratio in LADDER:
            for multiple in multiples:
                technique = replace(cls(), ratio=ratio, round_to=multiple)
                kept = tuple(technique.kept(group, ratio, job) for group in free)
                if kept not in seen:
                    seen.add(kept)
                    yield technique
        if seen == {whole}:
            least = f"what is kept is a multiple of {min(multiples)}"
            raise TechniqueError(f"its widest layer has {max(whole)} channels, and {least}.")

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        """Each group alone, at a quarter, half and three quarters of its channels; of many groups the smaller at half.

        What is kept is rounded to a multiple of 4, and to the nearest one of 16 where that is another number; to
        `round_to` where that is given. What each gains and loses tells how much to take where. TechniqueError where no
        channels can go.
        """
        groups = _free(ChannelPlan.of(model, job))
        multiples = MULTIPLES if self.round_to is None else (self.round_to,)
        sizes = part_sizes(groups, multiples)
        for group in groups:
            for kept in sizes[group.name]:
                # Four digits, as people read them, of the share that comes to this number once it is rounded.
                share = math.ceil((1 - kept / group.channels) * 1e4 - 1e-6) / 1e4
                ratios = ((group.name, share),)
                alone = replace(self, ratio=0.0, round_to=multiples[0], ratios=ratios)
                yield Part(alone, group.name, share)

    def as_small(self) -> Iterator[Self]:
        """By other criteria, where this is the default one."""
        if self.criterion == type(self)().criterion:
            for criterion in OTHER_CRITERIA:
                yield replace(self, criterion=criterion)

    def joined(self, other: Self) -> Self:
        """Both, each group at the larger of its two ratios."""
        ratios = dict(self.ratios)
        for layer, ratio in other.ratios:
            ratios[layer] = max(ratio, ratios.get(layer, 0.0))
        return replace(self, ratio=max(self.ratio, other.ratio), ratios=tuple(sorted(ratios.items())))


def _free(plan: ChannelPlan) -> list[ChannelGroup]:
    """The groups of which channels can go. TechniqueError that says why where there are none."""
    free = [group for group in plan.groups if not group.frozen]
    if not free:
        raise nothing_fits("no channels can be removed", frozen_layers(plan.traced))
    return free


def _outputs_kept(group: ChannelGroup, layer: str, before: nn.Module, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether a layer makes the channels of the group, and as many as before."""
    slots = [member.slot for member in group.members if member.produces and member.slot.layer == layer]
    parameters = [slot for slot in slots if slot.tensor in shapes]
    kept = [before.get_parameter(slot.tensor).shape[slot.dim] == shapes[slot.tensor][slot.dim] for slot in parameters]
    return bool(kept) and all(kept)
