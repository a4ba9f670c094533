"""Weight pruning: zeros among the weights, one by one or in patterns; the shapes stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from paring.data.batches import first_rows
from paring.data.job import SAMPLE_ROWS, Job
from paring.errors import TechniqueError
from paring.graph.copies import check_copyable, copied
from paring.graph.macs import layer_costs
from paring.graph.weights import Matrix, check_layers, held_by, matrices
from paring.ops.importance import OF_GRADIENTS, Criterion, Evidence, criterion_of, weight_importance
from paring.ops.reconstruction import reconstructed
from paring.ops.sparsity import Blocks, NOfM, Pattern, lowest, lowest_of_each, pattern_of, zero_share, zeros_first
from paring.settings import check_once, check_types
from paring.techniques.base import ModuleTechnique, Part
from paring.techniques.evidence import Observations
from paring.train.gradients import labelled_rows
from paring.types import Coverage, Inputs, LayerChange, Objective, Task

Scope = Literal["output", "layer", "global"]
DEFAULT_SPARSITY = 0.5
PART_SPARSITIES = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class PruneWeights(ModuleTechnique):
    """Set weights of convolutions and linear layers to zero, the least important first.

    How many: `sparsity`, the share of zeros (half, where nothing else is said), in each layer or, with `scope`
    "global", in all together, where each layer keeps as many weights as it has outputs; with "output" in those of each
    output, rounded down, and in vectors as a whole; or `threshold`, which takes all weights below it in magnitude; or a
    pattern such as "2:4", which says it itself. Zeros that are there already count. `pattern` "1x4" makes zeros in
    blocks of outputs times inputs. `sparsities` sets single layers; `layers` leaves all others alone; so are biases and
    the vectors of normalisation, unless `vectors` asks for them. `criterion` is a name from `ops.importance` or a
    function. With `reconstruct` the weights that stay are solved for the layer's former outputs on the calibration rows
    (see `ops.reconstruction`).

    A training that follows holds the zeros. No runtime that paring knows today is faster with them: they make the
    stored network smaller. A bias may go as a whole, and is then taken up again by a training; TechniqueError where a
    layer would lose all that it multiplies with.
    """

    improves: ClassVar[tuple[Objective, ...]] = ("size",)

    sparsity: float | None = None
    threshold: float | None = None
    pattern: str = "1x1"
    scope: Scope = "layer"
    criterion: str | Criterion = "magnitude_l1"
    reconstruct: bool = False
    vectors: bool = False
    layers: tuple[str, ...] = ()
    sparsities: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        check_once("sparsities", self.sparsities)
        told = [("sparsity", self.sparsity), *((f"sparsity of {layer!r}", share) for layer, share in self.sparsities)]
        for name, share in told:
            if share is not None and not 0 <= share < 1:
                raise TechniqueError(f"{name}={share} must be at least 0 and below 1: the share of zeros.")
        if self.threshold is not None and not self.threshold > 0:
            raise TechniqueError(f"threshold={self.threshold} must be above 0: smaller weights become zero.")
        criterion_of(self.criterion)
        self._check_one_amount(pattern_of(self.pattern))

    def _check_one_amount(self, pattern: Pattern) -> None:
        """Two ways to say how many weights go contradict each other."""
        fixed = isinstance(pattern, NOfM)
        amounts = {
            f"sparsity={self.sparsity}": self.sparsity is not None,
            f"threshold={self.threshold}": self.threshold is not None,
            f"pattern={self.pattern!r}": fixed,
        }
        given = [name for name, said in amounts.items() if said]
        if len(given) > 1:
            raise TechniqueError(f"{' and '.join(given)} each say how many weights go: give one of them.")
        if self.scope != "layer" and (fixed or (self.scope == "output" and self.threshold is not None)):
            raise TechniqueError(
                f"scope={self.scope!r} tells among which weights a share of them goes, and {given[0]} is none: leave "
                "scope out."
            )
        if self.sparsities and (fixed or self.threshold is not None):
            raise TechniqueError(f"{given[0]} leaves no choice to sparsities={self.sparsities}: give one of them.")
        if self.threshold is not None and (self.pattern != "1x1" or self.criterion != "magnitude_l1"):
            raise TechniqueError(
                f"threshold={self.threshold} is for single weights by their magnitude: leave pattern and criterion as "
                "they are, or give a sparsity."
            )

    def apply(self, model: nn.Module, job: Job) -> nn.Module:
        """A copy in eval mode with zeros. TechniqueError where no layer fits the pattern, or one would lose all."""
        network = copied(model).eval()
        chosen = self._chosen(network, job.sample)
        observations = Observations(network, job)
        masks = self._masks(chosen, observations)
        self._check_left(chosen, masks)
        pruned = [self._pruned(matrix, mask, observations) for matrix, mask in zip(chosen, masks, strict=True)]
        with torch.no_grad():
            for matrix, values in zip(chosen, pruned, strict=True):
                matrix.parameter.copy_(matrix.like(values))
        return network

    def check_fits(self, model: nn.Module, task: Task) -> None:
        """Raise TechniqueError for unknown layers, no layer that fits, a threshold that takes all, missing labels."""
        check_copyable(model)
        chosen = self._chosen(model, Job(task, first_rows(task.evaluate, SAMPLE_ROWS, "evaluate")).sample)
        if self.threshold is not None:
            self._check_left(chosen, _above(self.threshold, chosen))
        if criterion_of(self.criterion) in OF_GRADIENTS:
            labelled_rows(task, 1)

    def _check_left(self, chosen: Sequence[Matrix], masks: Sequence[Tensor]) -> None:
        """Raise TechniqueError for a layer of which nothing would stay."""
        for matrix, mask in zip(chosen, masks, strict=True):
            weight = matrix.rows(matrix.parameter.detach())
            if weight.any() and not weight[mask].any() and not matrix.is_bias:
                raise TechniqueError(
                    f"{self} leaves nothing of {matrix.layer!r}: remove less, or leave that layer out."
                )

    def at(self, share: float) -> Self | None:
        """The pruning that has come so far, for schedules: 0 is the beginning, 1 is all of it; None where none goes."""
        pattern = pattern_of(self.pattern)
        if isinstance(pattern, NOfM):
            gone = math.floor((pattern.m - pattern.n) * share + 1e-9)
            return replace(self, pattern=f"{pattern.m - gone}:{pattern.m}") if gone else None
        if self.threshold is not None:
            return replace(self, threshold=self.threshold * share) if share else None
        own = tuple((layer, each * share) for layer, each in self.sparsities)
        return replace(self, sparsity=self.share * share, sparsities=own)

    @property
    def share(self) -> float:
        """The share of zeros where layers have none of their own."""
        return DEFAULT_SPARSITY if self.sparsity is None else self.sparsity

    def _pruned(self, matrix: Matrix, mask: Tensor, observations: Observations) -> Tensor:
        """The weight with its zeros, shape (outputs, inputs)."""
        weight = matrix.rows(matrix.parameter.detach())
        if not self.reconstruct or mask.all() or matrix.is_vector:
            return weight.masked_fill(~mask, 0)  # A product would leave negative zeros, which are stored as values.
        observations.job.check_time()
        parts = zip(weight.chunk(matrix.groups), mask.chunk(matrix.groups), observations.gram(matrix), strict=True)
        return torch.cat([reconstructed(*part) for part in parts])

    def _chosen(self, model: nn.Module, inputs: Inputs) -> list[Matrix]:
        """The weights that are asked for and fit. TechniqueError for names that are unknown or don't fit."""
        every = matrices(model, inputs, vectors=self.vectors)
        if not every:
            raise TechniqueError(
                f"{self.name} finds no floating-point weights of convolutions or linear layers: prune a network before "
                "it is quantized."
            )
        known = {matrix.layer for matrix in every}
        named = {layer for layer, _ in self.sparsities}
        check_layers(self.layers, known, model, "layers")
        check_layers(sorted(named), known, model, "sparsities")
        asked = [matrix for matrix in every if not self.layers or matrix.layer in {*self.layers, *named}]
        fitting = [matrix for matrix in asked if not self._misfit(matrix)]
        wanted = {*self.layers, *named}.difference(matrix.layer for matrix in fitting)
        for matrix in asked if wanted or not fitting else ():
            if not fitting or matrix.layer in wanted:
                raise TechniqueError(f"{self.name} can't prune {matrix.layer!r}: {self._misfit(matrix)}.")
        return fitting

    def _misfit(self, matrix: Matrix) -> str:
        """Why a weight is left alone; runs of inputs don't reach from one position of a kernel to the next."""
        if not matrix.takes_zeros:
            return "the parametrization that makes its weight leaves no zeros (see remove_parametrizations of torch)"
        misfit = pattern_of(self.pattern).misfit(matrix.shape[0], matrix.inputs_at_once)
        return misfit and f"pattern {self.pattern} does not fit: {misfit}"

    def _masks(self, chosen: Sequence[Matrix], observations: Observations) -> list[Tensor]:
        """What stays of each weight, shape (outputs, inputs)."""
        pattern = pattern_of(self.pattern)
        if self.threshold is not None:
            return _above(self.threshold, chosen)
        scores = [self._scores(matrix, observations) for matrix in chosen]
        zeros = [matrix.rows(matrix.parameter.detach()) == 0 for matrix in chosen]
        if isinstance(pattern, NOfM):
            return [pattern.mask(zeros_first(*each)) for each in zip(zeros, scores, strict=True)]
        assert isinstance(pattern, Blocks)
        pooled = [pattern.pooled_without(*each) for each in zip(zeros, scores, strict=True)]
        return [pattern.spread(mask) for mask in self._lowest(chosen, pooled)]

    def _lowest(self, chosen: Sequence[Matrix], scores: Sequence[Tensor]) -> list[Tensor]:
        """Masks of what stays: the lowest of each output or layer go, or of all without an own share together."""
        own = dict(self.sparsities)
        masks: dict[int, Tensor] = {}
        together = [at for at, matrix in enumerate(chosen) if self.scope == "global" and matrix.layer not in own]
        if together:
            spared = [_spared(scores[at], chosen[at]) for at in together]
            masks.update(zip(together, lowest(spared, self.share), strict=True))
        for at, matrix in enumerate(chosen):
            share = own.get(matrix.layer, self.share)
            if self.scope == "output" and not matrix.is_vector:
                masks[at] = lowest_of_each(scores[at], share)
            elif at not in masks:
                masks[at] = lowest([scores[at]], share)[0]
        return [masks[at] for at in range(len(chosen))]

    def _scores(self, matrix: Matrix, observations: Observations) -> Tensor:
        """Importance of every weight, shape (outputs, inputs)."""
        weight = matrix.rows(matrix.parameter.detach().float()).clone()  # A function may change what it is given.
        if dict(self.sparsities).get(matrix.layer) == 0:
            return weight  # All of it stays, whatever a criterion would know of it.
        evidence = Evidence.of(
            weight, lambda what: matrix.rows(observations.of(what, matrix.name)), observations.job.seed
        )
        return weight_importance(self.criterion, evidence, matrix.layer)

    def coverage(self, before: nn.Module, after: nn.Module, job: Job) -> Coverage:
        """Every weighted layer: its share of zeros before and after, or why it was left alone.

        With `vectors` normalisations too, whose multiplications are not counted.
        """
        costs = {each: (cost.parameters, cost.macs) for each, cost in layer_costs(after, job.calibrate[0][0]).items()}
        for matrix in matrices(after, vectors=True) if self.vectors else ():
            size = sum(parameter.numel() for parameter in after.get_submodule(matrix.layer).parameters(recurse=False))
            costs.setdefault(matrix.layer, (size, 0))
        old, new = (matrices(model, job.sample, vectors=self.vectors) for model in (before, after))
        changes = [
            LayerChange(layer, *self._change(held_by(before, old, layer), held_by(after, new, layer), layer), *cost)
            for layer, cost in costs.items()
        ]
        return Coverage(str(self), tuple(changes))

    def _change(self, old: Sequence[Matrix], new: Sequence[Matrix], layer: str) -> tuple[bool, str]:
        """Whether a layer has lost weights, and what people should know."""
        if not old:
            return False, "its values are looked up, added or scale, or shared with a layer whose are"
        if self.layers and layer not in {*self.layers, *(name for name, _ in self.sparsities)}:
            return False, "was not asked for"
        if all(map(self._misfit, old)):
            return False, self._misfit(old[0])
        before, after = (torch.cat([each.parameter.detach().flatten() for each in held]) for held in (old, new))
        were, are = zero_share(before), zero_share(after)
        # A schedule trains as well: what it prunes shows in the zeros alone.
        if not (after == 0)[before != 0].any():
            return False, f"as it was: {were:.1%} of the weights are zero"
        return True, f"{are:.1%} of the weights are zero" + (f" (were {were:.1%})" if were else "")

    @classmethod
    def variants(cls, model: nn.Module, job: Job) -> Iterator[Self]:
        """Shares of zeros of all layers together, blocks that a kernel could skip, two of four."""
        for share in (0.8, 0.9, 0.95, 0.7):
            yield cls(sparsity=share, scope="global")
        yield cls(sparsity=0.8, pattern="1x4")
        yield cls(pattern="2:4")

    def parts(self, model: nn.Module, job: Job) -> Iterator[Part[Self]]:
        """Each layer alone, at half of its weights, four fifths and almost all; at what a pattern or threshold says."""
        for matrix in self._chosen(model, job.sample):
            if matrix.is_vector:
                continue
            alone, pattern = replace(self, layers=(matrix.layer,), sparsities=()), pattern_of(self.pattern)
            if isinstance(pattern, NOfM):
                yield Part(alone, matrix.layer, 1 - pattern.n / pattern.m)
            elif self.threshold is not None:
                gone = 1 - float(_above(self.threshold, [matrix])[0].float().mean())
                yield from [Part(alone, matrix.layer, gone)] if gone else []
            else:
                for share in PART_SPARSITIES:
                    yield Part(replace(alone, sparsities=((matrix.layer, share),)), matrix.layer, share)

    def joined(self, other: Self) -> Self:
        """Both, each layer at the larger of its two shares."""
        shares = dict(self.sparsities)
        for layer, share in other.sparsities:
            shares[layer] = max(share, shares.get(layer, 0.0))
        layers = tuple(sorted({*self.layers, *other.layers}))
        return replace(self, layers=layers, sparsities=tuple(sorted(shares.items())))


def _above(threshold: float, chosen: Sequence[Matrix]) -> list[Tensor]:
    """Masks of the weights of at least that magnitude, shape (outputs, inputs)."""
    return [matrix.rows(matrix.parameter.detach()).abs() >= threshold for matrix in chosen]


def _spared(scores: Tensor, matrix: Matrix) -> Tensor:
    """Scores of a layer's units, infinite for as many of the highest as hold a weight for each output on average.

    Of a vector one is spared, of a bias none.
    """
    kept = int(not matrix.is_bias) if matrix.is_vector else matrix.shape[0]
    units = math.ceil(scores.numel() * kept / matrix.parameter.numel())
    highest = scores.flatten().argsort(descending=True, stable=True)[:units]
    return scores.flatten().index_fill(0, highest, torch.inf).reshape(scores.shape)
