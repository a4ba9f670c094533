"""What to do where a training diverges: the last good weights are kept, and tried once more with smaller steps."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from paring.errors import TechniqueError

KEEP_EVERY_STEPS = 50
SLOWER = 0.1


class Guard:
    """Keeps the weights of the last good moment.

    The first loss or gradient that is not finite takes the network back to them, with a tenth of the learning rate;
    the second one ends the training with TechniqueError, the network at the last good weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._values = [value.detach() for value in chain(model.parameters(), model.buffers())]
        self._kept = self._copies()
        self._steps = 0
        self.learning_rate_factor = 1.0

    def good(self) -> None:
        """Told after every finite loss and gradient, before the step that follows from them."""
        self._steps += 1
        if self._steps % KEEP_EVERY_STEPS == 0:
            self._kept = self._copies()

    def bad(self, what: str, remedy: str) -> None:
        """Told `what` is not finite, and where; `remedy` is what the user is told to choose the second time."""
        self.restore_()
        if self.learning_rate_factor < 1:
            raise TechniqueError(
                f"the training diverged again at {SLOWER:g} of its learning rate ({what} is not finite): "
                f"choose {remedy}."
            )
        self.learning_rate_factor = SLOWER

    def restore_(self) -> None:
        """Back to the last good weights."""
        with torch.no_grad():
            for value, kept in zip(self._values, self._kept, strict=True):
                value.copy_(kept)

    def is_finite(self) -> bool:
        """True where no weight is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self._values)

    def _copies(self) -> list[Tensor]:
        return [value.clone() for value in self._values]
