"""Patterns of zeros: which weights of a matrix stay, given how much each one matters."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paring.errors import TechniqueError


class Pattern(ABC):
    """Where zeros may be in a matrix (outputs, inputs)."""

    @abstractmethod
    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that shape can't have this pattern; empty where it can."""


@dataclass(frozen=True)
class Blocks(Pattern):
    """Zeros come in blocks of `rows` outputs times `columns` inputs; 1x1 is a single weight."""

    rows: int
    columns: int

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that shape can't have this pattern; empty where it can."""
        if rows % self.rows == 0 and columns % self.columns == 0:
            return ""
        return f"{rows} outputs of {columns} inputs are not divided by blocks of {self.rows}x{self.columns}"

    def pooled(self, scores: Tensor) -> Tensor:
        """(rows, columns) -> the sum over each block, (rows / block rows, columns / block columns)."""
        rows, columns = scores.shape
        return scores.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns).sum((1, 3))

    def pooled_without(self, zeros: Tensor, scores: Tensor) -> Tensor:
        """The same of what is there: only a block that is all zeros already goes before others."""
        return zeros_first(self.pooled((~zeros).float()) == 0, self.pooled(scores.masked_fill(zeros, 0)))

    def spread(self, blocks: Tensor) -> Tensor:
        """The inverse of pooling for masks: every weight of a block has the block's value."""
        return blocks.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)


@dataclass(frozen=True)
class NOfM(Pattern):
    """Of `m` inputs in a row `n` are kept, as sparse tensor cores want 2:4 (Mishra et al. 2021)."""

    n: int
    m: int

    def misfit(self, rows: int, columns: int) -> str:
        """Why a matrix of that shape can't have this pattern; empty where it can."""
        return "" if columns % self.m == 0 else f"{columns} inputs are not divided by {self.m} of {self.n}:{self.m}"

    def mask(self, scores: Tensor) -> Tensor:
        """Which weights stay, shape (rows, columns): the n highest of each m, of equal ones the first."""
        runs = scores.reshape(len(scores), -1, self.m)
        order = runs.argsort(dim=-1, descending=True, stable=True)[..., : self.n]
        return torch.zeros_like(runs, dtype=torch.bool).scatter_(-1, order, True).flatten(1)


def zeros_first(zeros: Tensor, scores: Tensor) -> Tensor:
    """Scores by which what is zero already goes before all else."""
    return torch.where(zeros, scores.min() - 1, scores)


def pattern_of(text: str) -> Pattern:
    """ "1x4" -> blocks, "2:4" -> n of m, "1x1" -> single weights. TechniqueError for anything else."""
    blocks, n_of_m = re.fullmatch(r"(\d+)x(\d+)", text), re.fullmatch(r"(\d+):(\d+)", text)
    if blocks and min(map(int, blocks.groups())) >= 1:
        return Blocks(*map(int, blocks.groups()))
    if n_of_m and 1 <= int(n_of_m[1]) < int(n_of_m[2]):
        return NOfM(*map(int, n_of_m.groups()))
    raise TechniqueError(
        f"pattern={text!r} is unknown: use '1x1' for single weights, blocks of outputs x inputs such as '1x4', "
        "or kept:of with kept from 1 to below of, such as '2:4'."
    )


def lowest(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Masks of what stays when that share of all scores goes, the lowest first, of equal ones the first.

    Never more than the share goes: the count is rounded down. Shapes are those of the scores.
    """
    flat = torch.cat([each.flatten() for each in scores])
    count = math.floor(sparsity * len(flat) + 1e-9)
    stays = torch.ones(len(flat), dtype=torch.bool)
    stays[flat.argsort(stable=True)[:count]] = False
    parts = torch.split(stays, [each.numel() for each in scores])
    return [part.reshape(each.shape) for part, each in zip(parts, scores, strict=True)]


def lowest_of_each(scores: Tensor, sparsity: float) -> Tensor:
    """`lowest` in each row alone, so that every row keeps as many. Shape (rows, columns)."""
    count = math.floor(sparsity * scores.shape[1] + 1e-9)
    gone = scores.argsort(dim=1, stable=True)[:, :count]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, gone, False)


def zero_share(tensor: Tensor) -> float:
    """The share of exact zeros; 0 of an empty tensor."""
    return float((tensor == 0).double().mean()) if tensor.numel() else 0.0
