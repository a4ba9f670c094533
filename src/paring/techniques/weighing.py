"""How weights become integers: which format, which scales, which way to round; and what has to be observed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paring.data.job import Job
from paring.graph.biases import add_to_bias
from paring.graph.integer_weights import Weigh
from paring.graph.learned import Learned
from paring.graph.matrices import as_rows, matrix_reasons
from paring.graph.onnx_graph import Array, Graph, attribute
from paring.ops.formats import format_of
from paring.ops.grid import Grid
from paring.ops.rounding import Rounding, mean_shift, refitted
from paring.ops.scales import Scaling, fitted, least
from paring.techniques.moments import layer_moments

LEARNED_FORMAT = format_of("int8")


@dataclass(frozen=True)
class Weighing:
    """Formats by name, for all layers and for some; one scale for each output channel, or for the whole weight."""

    format: str = "int8"
    formats: Mapping[str, str] = field(default_factory=dict)
    scaling: Scaling = field(default_factory=lambda: Scaling("min-max"))
    per_channel: bool = True
    rounding: Rounding = "nearest"
    bias_correction: bool = False

    def prepared(self, graph: Graph, layers: Sequence[str], job: Job, learned: Learned) -> Weigh:
        """The function that quantizes the weights of these layers. What was learned of a weight counts for it.

        With `bias_correction` the biases in the graph are changed.
        """
        observes = self.rounding != "nearest" or self.bias_correction
        wanted = _matrices(graph, layers, learned) if observes else []
        nodes = {node.name: node for node in graph.nodes}
        chosen: dict[str, tuple[Grid, Array, Array]] = {}
        for name, moments in layer_moments(graph, wanted, job):
            weight = graph.constant(nodes[name].input[1])
            assert weight is not None
            rows = as_rows(nodes[name], weight * np.float32(attribute(nodes[name], "alpha", 1.0)))
            # A bias takes the shift of the mean upon itself: what is left is how the outputs vary.
            second = moments.covariance if self.bias_correction else moments.second
            free = not self.scaling.power_of_two
            grid, codes = refitted(rows, self.grid(name, rows), second, self.rounding, free=free)
            chosen[name] = grid, codes, moments.mean
            if self.bias_correction:
                add_to_bias(graph, nodes[name], -mean_shift(rows, grid.values(codes), moments.mean))

        def weigh(layer: str, rows: Array, by_row: bool, least_scale: Array) -> tuple[Grid, Array, Array]:
            if layer in chosen:
                grid, codes, mean = chosen[layer]
            else:
                given = learned.weights.get(layer)
                grid = self.grid(layer, rows, by_row) if given is None else _learned_grid(given)
                codes, mean = grid.nearest(rows), np.zeros(rows.shape[1])
            raised, new = self._raised(grid, codes, rows, least_scale)
            if not self.bias_correction or new is codes:
                return raised, new, np.zeros(len(rows))
            return raised, new, mean_shift(raised.values(new), grid.values(codes), mean)

        return weigh

    def _raised(self, grid: Grid, codes: Array, rows: Array, least_scale: Array) -> tuple[Grid, Array]:
        """No scale below the least; rows whose scale that changes have the nearest codes, the others keep theirs."""
        floor = least_scale if len(grid.scale) > 1 else least_scale.max(initial=0.0)
        raised = least(grid, floor, power_of_two=self.scaling.power_of_two)
        changed = (raised.scale != grid.scale).any(axis=1)
        return raised, np.where(changed[:, None], raised.nearest(rows), codes) if changed.any() else codes

    def grid(self, layer: str, rows: Array, by_row: bool = True) -> Grid:
        """The levels that a layer's weight, shape (rows, columns), may take."""
        form = format_of(self.formats.get(layer, self.format))
        return fitted(rows, form, self.scaling, by_row=by_row and self.per_channel)


def _learned_grid(scales: Array) -> Grid:
    return Grid(LEARNED_FORMAT, scales.astype(np.float32).reshape(-1, 1))


def _matrices(graph: Graph, layers: Sequence[str], learned: Learned) -> list[str]:
    """Those of the layers that can be rounded by what they read."""
    reasons = matrix_reasons(graph)
    return [name for name in layers if reasons.get(name) == "" and name not in learned.weights]
