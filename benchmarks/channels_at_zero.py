"""Whether a pruned network gives what the original gives with the removed channels at zero: a check of its own.

Apart from the indices it shares nothing with the proof in `paring.graph.channels`: modules are run, not a graph.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from paring.data.job import Job
from paring.techniques import PruneChannels
from paring.techniques.channel_plan import ChannelPlan


class KeptNorms(TorchFunctionMode):
    """Within, layer norms take their statistics over the kept channels; the others come out as zero.

    `kept` tells the channels by the id of the norm's weight.
    """

    def __init__(self, kept: dict[int, Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One function of torch."""
        if func is not F.layer_norm:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(F.layer_norm).bind(*args, **(kwargs or {})).arguments
        kept = self.kept.get(id(given["weight"]))
        if kept is None:
            return func(*args, **(kwargs or {}))
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        offsets = None if bias is None else bias[kept]
        normed = F.layer_norm(x[..., kept], (len(kept),), weight[kept], offsets, given["eps"])
        return torch.zeros_like(x).index_copy(-1, kept, normed)


def zeroed(
    network: nn.Module, smaller: nn.Module, technique: PruneChannels, job: Job
) -> tuple[nn.Module, dict[int, Tensor]]:
    """The network with zeros in all weights, offsets and statistics of the channels that the smaller one lacks.

    And what its layer norms keep, by the ids of their weights. Attention of torch's is taken apart for it.
    """
    plan = ChannelPlan.of(network, job)
    removal = technique.removal(plan, technique.sizes(plan))
    result, kept = copy.deepcopy(plan.model), dict[int, Tensor]()
    old, new = ({**dict(n.named_parameters()), **dict(n.named_buffers())} for n in (result, smaller))
    for group in plan.groups:
        slots = [member.slot for member in group.members]
        # What is packed again lost nothing.
        if group.name not in removal or any(s.tensor not in new for s in slots):
            continue
        if any(old[s.tensor].shape[s.dim] == new[s.tensor].shape[s.dim] for s in slots):
            continue
        rows = list(removal[group.name])
        for member in group.members:
            gone = torch.as_tensor(member.indices[rows].ravel())
            tensor = old[member.slot.tensor]
            tensor.detach().index_fill_(member.slot.dim, gone, 0.0)
            if isinstance(result.get_submodule(member.slot.layer), nn.LayerNorm):
                before = kept.get(id(tensor), torch.arange(len(tensor)))
                kept[id(tensor)] = before[~torch.isin(before, gone)]
    return result.eval(), kept


def difference(
    network: nn.Module, smaller: nn.Module, technique: PruneChannels, job: Job, inputs: tuple[Tensor, ...]
) -> float:
    """The largest difference of the smaller network's output from what it should be, as a share of the largest value.

    On the inputs in another order, in which every row is another one: numbers shuffled among all rows and places.
    """
    generator = torch.Generator().manual_seed(1)
    shuffled = tuple(
        tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape) for tensor in inputs
    )
    reference, kept = zeroed(network, smaller, technique, job)
    with torch.no_grad():
        found = smaller(*shuffled)
        with KeptNorms(kept):
            expected = reference(*shuffled)
    return float((found - expected).abs().max() / expected.abs().max())
