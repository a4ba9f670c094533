"""Per-sample scores and losses that a task uses unless it brings its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest of the class scores is at the target: (batch, ..., classes), (batch, ...) -> (batch,).

    With positions between batch and classes (a tag for each word, say), the share of right positions in each row.
    """
    right = (outputs.argmax(-1) == targets).float()
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood: (batch, ..., classes), (batch, ...) -> ()."""
    from torch.nn.functional import cross_entropy as reference

    return reference(outputs.flatten(0, -2), targets.flatten().long())
