"""Channels of a network: its groups, what is known of their weights, and networks without some of them, proven."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.attention import put_back_, with_split_attention
from paring.graph.channels import (
    ChannelGroup,
    Member,
    Removal,
    Trace,
    groups_of,
    probes,
    proven_removal,
    run,
    trace,
    training_failure,
)
from paring.graph.copies import copied
from paring.graph.weights import NORMS
from paring.ops.importance import Evidence, Observed
from paring.techniques.evidence import Observations
from paring.types import Inputs


@dataclass(frozen=True, eq=False)
class ChannelPlan:
    """What a pruning works on: the network in eval mode, its trace, its groups and a sample.

    In `model` the attention of torch is taken apart, so that its heads are channels as others are; in `original` it is
    as it came.
    """

    original: nn.Module
    model: nn.Module
    traced: Trace
    groups: tuple[ChannelGroup, ...]
    inputs: Inputs
    observations: Observations

    @classmethod
    def of(cls, model: nn.Module, job: Job) -> ChannelPlan:
        """Trace the network on the first rows that may be observed. TechniqueError where that fails."""
        original = copied(model).eval()
        inputs = job.sample
        network = _apart(original, inputs)
        traced = trace(network, inputs)
        return cls(original, network, traced, groups_of(traced), inputs, Observations(network, job))

    @property
    def job(self) -> Job:
        """What it was made for."""
        return self.observations.job

    def without(self, removal: Removal) -> nn.Module:
        """The smaller network, proven. TechniqueError where it does not do what the original does."""
        smaller = proven_removal(self.traced, self.model, self._probes, self.groups, removal, self._trains)
        if self.model is not self.original:
            put_back_(smaller, self.model, self.original)
        return smaller

    @cached_property
    def _probes(self) -> tuple[Inputs, ...]:
        return probes(self.model, self.inputs, self.job.calibrate)

    @cached_property
    def _trains(self) -> bool:
        """Whether the original runs in training mode: one that does not need not do so when it is smaller."""
        return not training_failure(self.model, self.inputs)

    def refusal(self, group: ChannelGroup, rows: tuple[int, ...]) -> str:
        """Why the channels of this group alone can't be removed; empty where they can."""
        try:
            self.without({group.name: rows})
        except TechniqueError as error:
            return str(error)
        return ""

    def evidence(self, group: ChannelGroup) -> Evidence:
        """What is known of a group's weights by their role, one row a channel."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

        def rows(member: Member, values: Tensor) -> Tensor:
            return member.rows(values.detach().float())

        def joined(members: list[Member]) -> Tensor:
            parts = [rows(member, tensors[member.slot.tensor]) for member in members]
            return torch.cat(parts, 1) if parts else torch.zeros(group.channels, 0)

        def observe(what: Observed) -> Tensor:
            parts = [rows(member, self.observations.of(what, member.slot.tensor)) for member in producers]
            # One for each layer, however many inputs it has.
            return torch.cat([part.mean(1, keepdim=True) for part in parts] if what == "response" else parts, 1)

        producers = [member for member in group.members if member.produces]
        consumers = [member for member in group.members if member.consumes]
        scales = [member for member in group.members if _scales(self.model, member)]
        return Evidence(joined(producers), joined(consumers), joined(scales), observe, self.job.seed)


def _apart(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network with its attention taken apart, where it does the same then; else as it is.

    Code may look into the modules of torch, and theirs may treat rows that are all padding in a way of its own.
    """
    split = with_split_attention(model)
    if split is model:
        return model
    try:
        pairs = list(zip(run(split, inputs), run(model, inputs), strict=True))
    except TechniqueError:
        return model
    return split if all(torch.allclose(one, other, 1e-3, 1e-4, equal_nan=True) for one, other in pairs) else model


def _scales(model: nn.Module, member: Member) -> bool:
    """Whether it is the factor of a normalisation."""
    return isinstance(model.get_submodule(member.slot.layer), NORMS) and member.slot.tensor.endswith("weight")
