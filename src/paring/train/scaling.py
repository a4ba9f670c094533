"""Loss scaling: what keeps small gradients from vanishing in float16."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

START = 2.0**16
GROW_AFTER = 2000
LEAST = 1.0


class LossScale:
    """What the loss is multiplied by before its gradient is taken, and the gradient divided by behind that.

    Dynamic loss scaling (Micikevicius et al. 2018, Mixed Precision Training, section 3.2), with the numbers of
    `torch.amp.GradScaler`: from 2^16 it halves wherever the gradient overflows, which costs a step, and doubles after
    2000 steps in a row that did not. Below 1 it can't be what makes the gradient overflow. All are powers of two, so
    that nothing is rounded. Without float16 it is 1 and stays so.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self._changes = dtype == torch.float16
        self.factor = START if self._changes else 1.0
        self._steps = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to take the gradient of."""
        return loss * self.factor if self._changes else loss

    @torch.no_grad()
    def unscale_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients as if nothing had been scaled."""
        for parameter in parameters:
            if self._changes and parameter.grad is not None:
                parameter.grad.div_(self.factor)

    def good(self) -> None:
        """Told after every finite gradient."""
        self._steps += 1
        if self._changes and self._steps % GROW_AFTER == 0:
            self.factor *= 2

    def halved(self) -> bool:
        """Told after every gradient that is not finite; False where a smaller scale can't help."""
        self._steps = 0
        if not self._changes or self.factor <= LEAST:
            return False
        self.factor /= 2
        return True
