"""Reconstruction: the weights that stay take over what those that went did for the layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.01
TOLERANCE = 1e-6
MOST_STEPS = 300


def dampened(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """X X^T plus a share of its mean diagonal, (n, n): inputs that were never seen stay where they are."""
    added = ridge(gram.diagonal(), damping)
    return gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * added


def ridge(diagonal: Tensor, damping: float = DAMPING) -> float:
    """What that adds to a diagonal, (n,)."""
    mean = float(diagonal.mean())
    return damping * mean if mean > 0 else 1.0


def reconstructed(weight: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    """The weights with zeros outside the mask whose outputs lie nearest to those of all weights.

    weight (rows, n), mask (rows, n) of bool, gram (n, n) = X X^T over the layer's inputs -> (rows, n), the minimum of
    |W' X - W X|^2 + damping |W' - W|^2. The layer-wise problem of Frantar and Alistarh (OBC 2022, SparseGPT 2023); they
    remove weight by weight or column by column and correct the rest, here the least squares under the whole mask are
    solved for all rows together, by conjugate gradients that see the kept weights only.
    """
    hessian = dampened(gram.double())
    kept, start = mask.double(), weight.double() * mask
    residual = ((weight.double() - start) @ hessian) * kept
    scale = hessian.diagonal().reciprocal()
    solution, direction = start.clone(), residual * scale
    energy = (residual * direction).sum(1, keepdim=True)
    enough = energy * TOLERANCE**2
    for _ in range(min(MOST_STEPS, weight.shape[1])):
        step = (direction @ hessian) * kept
        length = energy / (direction * step).sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        solution += length * direction
        residual -= length * step
        preconditioned = residual * scale
        energy, before = (residual * preconditioned).sum(1, keepdim=True), energy
        if bool((energy <= enough).all()):
            break
        direction = preconditioned + direction * (energy / before.clamp_min(torch.finfo(torch.float64).tiny))
    return solution.to(weight.dtype).masked_fill(~mask, 0)
