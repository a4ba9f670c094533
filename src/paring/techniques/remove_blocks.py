"""Block removal: residual blocks give way to the identity, branches to nothing; the shapes that are left ran fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from paring.data.batches import first_rows, model_call, tensors_of
from paring.data.checks import check_loss
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.graph.blocks import (
    Blocks,
    Nothing,
    Passthrough,
    StandIns,
    blocks_of,
    outermost,
    refusals,
    stand_ins,
    within,
    without_blocks,
)
from paring.graph.copies import copied
from paring.graph.macs import layer_costs
from paring.graph.weights import check_modules
from paring.settings import check_types
from paring.techniques.base import ModuleTechnique, Part
from paring.types import Batch, Coverage, Inputs, LayerChange, Task

JUDGED_ROWS = 256
MOST_VARIANTS = 8
NO_BLOCK = "no block of the network keeps the shape of its input and passes it on, and none is added to its own input"


@dataclass(frozen=True)
class RemoveBlocks(ModuleTechnique):
    """Replace whole blocks by the identity, and what is added to its own input (`x + block(x)`) by nothing.

    Either `blocks`, by qualified name, or the `count` least important ones (neither: one). Importance is what the
    loss on the calibration data rises by when the block is removed; where that data has no labels, how far the
    outputs move from those of the network as it came. After each removal the rest is judged again.

    After Veit et al. 2016 (residual networks behave like ensembles: most blocks can go alone) and Elkerdawy et al.
    2020, To Filter Prune, or to Layer Prune; the greedy order with a measured loss is our own choice.
    """

    blocks: tuple[str, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.blocks and self.count is not None:
            raise TechniqueError(
                f"blocks={self.blocks} and count={self.count} contradict each other: give one of them."
            )
        if self.count is not None and self.count < 1:
            raise TechniqueError(f"count={self.count} must be 1 or more: it is the number of blocks to remove.")

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError for a block that the network does not have."""
        check_modules(self.blocks, model, "blocks")

    @classmethod
    def candidates(cls, model: nn.Module, job: Job) -> tuple[str, ...]:
        """Qualified names of the blocks that the identity or nothing can stand in for, in the order of the network."""
        return tuple(_blocks(model, job).removable)

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """The network without the blocks. TechniqueError names what can't be removed, and what can."""
        network = _evaluated(model)
        if not self.blocks:
            return _greedy(network, job, blocks_of(network, job.sample), self.count or 1)
        result = without_blocks(network, _standing_in(network, self.blocks, job.sample))
        try:
            with torch.no_grad():
                model_call(result, job.sample)
        except Exception as error:
            raise TechniqueError(
                f"without blocks {', '.join(self.blocks)} the network does not run: {error}."
            ) from error
        return result

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Every weighted layer: gone with its block, or why it was kept."""
        network = _evaluated(before)
        blocks = blocks_of(network, job.sample)
        modules = after.named_modules(remove_duplicate=False)
        gone = [name for name, module in modules if isinstance(module, Passthrough | Nothing)]
        changes = []
        for layer, cost in layer_costs(network, job.sample).items():
            block = next((name for name in gone if within(layer, name)), None)
            reason = f"removed with block {block!r}" if block is not None else _kept_because(layer, blocks)
            changes.append(LayerChange(layer, block is not None, reason, cost.parameters, cost.macs))
        return Coverage(str(self), tuple(changes))

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """One block, two, and so on up to half of those that can be removed. TechniqueError where none can."""
        blocks = _blocks(model, job)
        most = math.ceil(len(blocks.removable) / 2)
        for count in range(1, min(most, MOST_VARIANTS) + 1):
            yield cls(count=count)
        if not most:
            raise TechniqueError(f"{_why_none(blocks)}.")

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        """Each block that can be removed. TechniqueError where none can."""
        blocks = _blocks(model, job)
        if not blocks.removable:
            raise TechniqueError(f"{_why_none(blocks)}.")
        for block in blocks.removable:
            yield Part(replace(self, blocks=(block,), count=None), block, 1.0)

    def joined(self, other: Self) -> Self:
        """The blocks of both."""
        return replace(self, blocks=tuple(sorted({*self.blocks, *other.blocks})))


def _evaluated(model: nn.Module) -> nn.Module:
    """A copy in eval mode."""
    return copied(model).eval()


def _blocks(model: nn.Module, job: Job) -> Blocks:
    """The blocks of a network on the first rows that may be observed."""
    return blocks_of(_evaluated(model), job.sample)


def _why_none(blocks: Blocks) -> str:
    """Why no block can be removed."""
    return "; ".join(f"block {block!r} {reason}" for block, reason in blocks.refused.items()) or NO_BLOCK


def _kept_because(layer: str, blocks: Blocks) -> str:
    """Why a layer is still there."""
    if any(within(layer, block) for block in blocks.removable):
        return "its block was kept"
    refused = next((block for block in blocks.refused if within(layer, block)), None)
    if refused is not None:
        return f"its block {refused!r} {blocks.refused[refused]}"
    return "is in no block that passes its input on in the same shape or is added to it"


def _standing_in(model: nn.Module, blocks: tuple[str, ...], inputs: Inputs) -> StandIns:
    """What stands in for each. TechniqueError for a block that does not exist or for which nothing can."""
    check_modules(blocks, model, "blocks")
    possible = {id(model.get_submodule(name)): stand_in for name, stand_in in stand_ins(model, inputs).items()}
    for block in blocks:
        if id(model.get_submodule(block)) not in possible:
            fitting = ", ".join(blocks_of(model, inputs).removable) or "no block of this network"
            raise TechniqueError(
                f"block {block!r} does not keep the shape and type of its input; {fitting} would, or is added to it."
            )
    found = {block: possible[id(model.get_submodule(block))] for block in outermost(blocks)}
    for block, reason in refusals(model, inputs, found).items():
        raise TechniqueError(f"block {block!r} {reason}: leave it out of blocks.")
    return found


def _greedy(model: nn.Module, job: Job, blocks: Blocks, count: int) -> nn.Module:
    """Remove the least important block, judge the rest again, `count` times."""
    candidates = blocks.removable
    if count > len(candidates):
        most = f"count={count}, but only {_number(candidates)} of the network can be removed: give a smaller count."
        raise TechniqueError(most if candidates else f"{_why_none(blocks)}: leave RemoveBlocks out.")
    batches = first_rows(job.calibrate, JUDGED_ROWS)
    cost = _cost(model, batches, job)
    gone: tuple[str, ...] = ()
    failures: dict[str, str] = {}
    for _ in range(count):
        costs: dict[str, float] = {}
        for block in candidates:
            if block in gone or block in failures:
                continue
            job.check_time()
            try:
                costs[block] = cost(without_blocks(model, {name: candidates[name] for name in (*gone, block)}))
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
                failures[block] = str(error)
                job.say(f"RemoveBlocks: the network does not run without {block!r} ({error})")
        if not costs:
            told = "; ".join(f"without {block!r}: {reason}" for block, reason in failures.items())
            raise TechniqueError(f"count={count}, but only {_number(gone)} can be removed ({told}).")
        best = min(costs, key=lambda block: (costs[block], block))
        gone = (*gone, best)
        job.say(f"RemoveBlocks: {best!r} goes, at {costs[best]:.4g}")
    return without_blocks(model, {name: candidates[name] for name in gone})


def _number(blocks: Sized) -> str:
    """How many blocks, in words."""
    return f"{len(blocks)} block{'' if len(blocks) == 1 else 's'}"


def _cost(model: nn.Module, batches: Sequence[Batch], job: Job) -> Callable[[nn.Module], float]:
    """The mean loss of a network over labelled batches, else the mean squared distance from this network's outputs."""
    labelled = all(targets is not None for _, targets in batches)
    if labelled:  # Else a loss that can't be taken of any network would pass for blocks that can't be removed.
        check_loss(job.task, model, batches[0], "the calibration rows")
    references = [] if labelled else [_outputs(model, inputs) for inputs, _ in batches]

    def cost(network: nn.Module) -> float:
        total, rows = 0.0, 0
        for index, (inputs, targets) in enumerate(batches):
            size = len(tensors_of(inputs)[0])
            outputs = _outputs(network, inputs)
            value = job.task.loss(outputs, targets) if labelled else _distance(outputs, references[index])
            total += float(value.mean()) * size
            rows += size
        return total / rows if math.isfinite(total) else math.inf

    return cost


def _outputs(model: nn.Module, inputs: Any) -> Any:
    """Outputs of one batch."""
    with torch.inference_mode():
        return model_call(model, inputs)


def _distance(outputs: Any, references: Any) -> Tensor:
    """Squared distance of the outputs, relative to the size of the reference, summed over all output tensors."""
    pairs = zip(tensors_of(outputs), tensors_of(references), strict=True)
    parts = [
        (output.double() - reference.double()).square().sum() / reference.double().square().sum().clamp_min(1e-12)
        for output, reference in pairs
    ]
    return torch.stack(parts).sum()
