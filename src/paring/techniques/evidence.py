"""What is observed of a network's weights for the criteria of pruning: gradients, inputs and responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from paring.data.batches import in_pieces, model_call
from paring.data.job import Job
from paring.errors import TechniqueError
from paring.fingerprint import fingerprint
from paring.graph.macs import unfused
from paring.graph.weights import Matrix, matrices
from paring.ops.importance import Observed
from paring.ops.reconstruction import dampened, ridge
from paring.train.gradients import sample_gradients

ROWS_AT_ONCE = 8
"""Rows whose patches are held in memory together."""

BYTES_AT_ONCE = 256 * 2**20
"""Products of inputs that are summed up in one pass over the calibration rows; what is more takes another pass."""

INSTEAD = (
    "leave it out (0.0 in ratios or sparsities), or choose a criterion of weights or gradients (magnitude_l2, taylor), "
    "and no reconstruct."
)

See: TypeAlias = Callable[[Matrix, Tensor, Tensor], None]
"""A weight, its layer's inputs and outputs for some rows."""

Hook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], None]
"""A layer, what it is called with and what it gives."""


@dataclass(frozen=True, eq=False)
class Observations:
    """What can be observed of a network in eval mode; each pass over data is made once and remembered by the job."""

    model: nn.Module
    job: Job

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """The weights that are multiplied with something."""
        return matrices(self.model, self.job.sample)

    @cached_property
    def _tables(self) -> dict[str, nn.Embedding]:
        """The lookup tables, by the names of their weights."""
        modules = self.model.named_modules()
        return {
            f"{name}.weight" if name else "weight": each for name, each in modules if isinstance(each, nn.Embedding)
        }

    @cached_property
    def _told(self) -> str:
        return fingerprint(self.model)

    def of(self, what: Observed, parameter: str) -> Tensor:
        """The value at every weight of a parameter, of its shape, for the caller to keep or to change.

        TechniqueError where it can't be had.
        """
        return self._seen(what, parameter).clone()

    def _seen(self, what: Observed, parameter: str) -> Tensor:
        if what in ("gradient", "squared_gradient"):
            gradients = self.job.once(f"gradients of {self._told}", lambda: sample_gradients(self.model, self.job))
            if parameter not in gradients:  # It is a constant, which no training changes.
                return torch.zeros_like(self.model.get_buffer(parameter), dtype=torch.float32)
            return gradients[parameter][what == "squared_gradient"]
        if parameter in self._tables:
            return self._of_table(what, parameter)
        matrix = next((each for each in self.matrices if each.name == parameter), None)
        if matrix is None:
            raise TechniqueError(f"{what} is observed of matrices of weights, and {parameter!r} is none: {INSTEAD}")
        return matrix.like(self._of_layer(what, matrix).expand(-1, matrix.shape[1]))

    def _of_table(self, what: Observed, name: str) -> Tensor:
        """The same of a lookup table, (entries, width): it is multiplied with rows that are 0 but for a single 1."""
        seen = self.job.once(f"lookups of {self._told}", self._lookups)
        if name not in seen:
            raise TechniqueError(f"{name!r} is not looked up by its layer, so that this can't be observed: {INSTEAD}")
        times = seen[name].double()[:, None]
        values = self._tables[name].weight.detach()
        if what == "response":
            found = (values.double() + times.log()).logsumexp(0, keepdim=True)
        elif what == "input_norm":
            found = times.sqrt()
        else:
            found = (2 * (times + ridge(times))).reciprocal()
        return found.expand(values.shape)

    def _lookups(self) -> dict[str, Tensor]:
        """How often each entry of each table is looked up for the calibration rows."""
        total: dict[str, Tensor] = {}

        def see(name: str, module: nn.Module, given: tuple[Any, ...], _: Any) -> None:
            if given and isinstance(given[0], Tensor):
                times = given[0].flatten().bincount(minlength=self._tables[name].num_embeddings)
                total[name] = total.get(name, 0) + times

        self._run([(table, partial(see, name)) for name, table in self._tables.items()])
        return total

    def _of_layer(self, what: Observed, matrix: Matrix) -> Tensor:
        """What the layer is given or gives, shape (outputs, n) or (outputs, 1)."""
        if what == "response":
            return self._found(matrix, self.job.once(f"responses of {self._told}", self._responses))
        if what == "input_norm":
            each = self._found(matrix, self.job.once(f"input norms of {self._told}", self._input_norms))
        else:
            each = torch.stack([torch.linalg.inv(2 * dampened(gram)).diagonal() for gram in self.gram(matrix)])
        return each.repeat_interleave(matrix.shape[0] // matrix.groups, 0)

    def gram(self, matrix: Matrix) -> Tensor:
        """X X^T over the inputs of the calibration rows, shape (groups, n, n), in float64."""
        batch = next(batch for batch in _batches(self.matrices) if matrix in batch)
        key = f"products of inputs of {batch[0].name} and so on in {self._told}"
        return self._found(matrix, self.job.once(key, lambda: self._grams(batch)))

    def _found(self, matrix: Matrix, seen: Mapping[str, Tensor]) -> Tensor:
        if matrix.name not in seen:
            raise TechniqueError(
                f"{matrix.layer!r} is not called as a linear layer or a convolution, so that what it is given can't be "
                f"observed: {INSTEAD}"
            )
        return seen[matrix.name]

    def _grams(self, batch: Sequence[Matrix]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}

        def see(matrix: Matrix, inputs: Tensor, _: Tensor) -> None:
            patches = matrix.patches(inputs).double()
            total[matrix.name] = total.get(matrix.name, 0) + patches.transpose(1, 2) @ patches

        self._watch(batch, see)
        return total

    def _input_norms(self) -> dict[str, Tensor]:
        """The Euclidean norm of every input of every layer, each (groups, n)."""
        total: dict[str, Tensor] = {}

        def see(matrix: Matrix, inputs: Tensor, _: Tensor) -> None:
            total[matrix.name] = total.get(matrix.name, 0) + matrix.patches(inputs).double().square().sum(1)

        self._watch(self.matrices, see)
        return {name: value.sqrt() for name, value in total.items()}

    def _responses(self) -> dict[str, Tensor]:
        """log sum exp over rows and positions of what every layer gives, each (outputs, 1)."""
        total: dict[str, Tensor] = {}

        def see(matrix: Matrix, _: Tensor, outputs: Tensor) -> None:
            units = outputs.movedim(-1 if isinstance(matrix.module, nn.Linear) else 1, 0).flatten(1).double()
            before = [total[matrix.name]] if matrix.name in total else []
            total[matrix.name] = torch.cat([units, *before], 1).logsumexp(1, keepdim=True)

        self._watch(self.matrices, see)
        return total

    def _watch(self, watched: Sequence[Matrix], see: See) -> None:
        """Show all that these layers are given and give for the calibration rows, some rows at a time."""

        def hook(matrix: Matrix, _: nn.Module, given: tuple[Any, ...], outputs: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(outputs, Tensor):
                see(matrix, given[0].float(), outputs.float())

        self._run([(each.module, partial(hook, each)) for each in watched if each.followed])

    def _run(self, hooks: Sequence[tuple[nn.Module, Hook]]) -> None:
        """The calibration rows through the network, with these hooks on its modules."""
        handles = [module.register_forward_hook(hook) for module, hook in hooks]
        try:
            with torch.no_grad(), unfused():
                for inputs, _ in self.job.calibrate:
                    for piece in in_pieces(inputs, ROWS_AT_ONCE):
                        self.job.check_time()
                        model_call(self.model, piece)
        finally:
            for handle in handles:
                handle.remove()


def _batches(every: Sequence[Matrix]) -> Iterator[list[Matrix]]:
    """The weights in runs whose products of inputs fit into memory together; at least one in each."""
    batch: list[Matrix] = []
    taken = 0
    for matrix in every:
        size = 8 * matrix.groups * matrix.shape[1] ** 2
        if batch and taken + size > BYTES_AT_ONCE:
            yield batch
            batch, taken = [], 0
        batch.append(matrix)
        taken += size
    if batch:
        yield batch
