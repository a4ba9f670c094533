"""An exact upper bound on the mean of paired 0/1 differences: each row is lost (+1), won (-1) or the same (0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CELLS = 256
_NUISANCE_SHARE = 0.02
_BISECTIONS = 28
_WINDOW_SIGMAS = 8.0


@dataclass(frozen=True)
class _Region:
    """The outcomes that speak at least as much for a small drop as what was seen, at the totals `rows` of changed rows.

    Row k of the region: with `rows[k]` changed rows, at most `most_lost[k]` of them lost (-1: none qualifies).
    """

    n: int
    rows: Integers
    most_lost: Integers
    log_factorial: Floats

    @classmethod
    def of(cls, lost: int, won: int, n: int, alpha: float, changed_range: tuple[float, float]) -> _Region:
        """The sublevel set of b - c + z sqrt(b + c + z^2 / 4) through the observed (lost, won)."""
        z = NormalDist().inv_cdf(1 - min(alpha, 0.5))
        low, high = (n * share for share in changed_range)
        first = max(0, math.floor(low - _WINDOW_SIGMAS * math.sqrt(low + 1)))
        last = min(n, math.ceil(high + _WINDOW_SIGMAS * math.sqrt(high + 1) + _WINDOW_SIGMAS))
        rows = np.arange(first, last + 1)
        seen = lost + won
        level = 2 * lost - seen + z * math.sqrt(seen + z * z / 4)
        # The slack keeps the observed outcome itself inside whatever the rounding of the square roots.
        most_lost = np.floor((level + rows - z * np.sqrt(rows + z * z / 4)) / 2 + 1e-9).astype(np.int64)
        log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
        return cls(n, rows, np.clip(most_lost, -1, rows), log_factorial)

    def log_choose(self, of: Integers | int, take: Integers) -> Floats:
        """Logarithm of the binomial coefficient; both arguments broadcast."""
        table = self.log_factorial
        result: Floats = table[of] - table[take] - table[np.asarray(of - take)]
        return result

    def probability_of_totals(self, changed: Floats) -> Floats:
        """P(k rows change) where each does with probability `changed`: (cells,) -> (cells, totals)."""
        p = changed[:, None]
        log_choose = self.log_choose(self.n, self.rows)
        probability: Floats = np.exp(log_choose + self.rows * np.log(p) + (self.n - self.rows) * np.log1p(-p))
        return probability

    def binomial(self, total: Integers | int, lost: Integers, lost_share: Floats) -> Floats:
        """P(B = lost) where B counts `lost_share` among `total`, 0 outside: (cells,) -> (cells, terms)."""
        inside = (lost >= 0) & (lost <= total)
        safe = np.where(inside, lost, 0)
        log_odds = safe * np.log(lost_share)[:, None] + (total - safe) * np.log1p(-lost_share)[:, None]
        return np.where(inside, np.exp(self.log_choose(total, safe) + log_odds), 0.0)

    def none_lost(self, changed: Floats) -> Floats:
        """An upper bound on the region's probability where no changed row is ever lost: (cells,) -> (cells,)."""
        totals = self.probability_of_totals(changed)
        result: Floats = 1 - totals @ (self.most_lost < 0)
        return result

    def first_lost_at_most(self, lost_share: Floats) -> Floats:
        """An upper bound, tight to rounding, on P(at most `most_lost[0]` of `rows[0]` are lost): (cells,) -> (cells,).

        Terms further than 8 standard deviations below the limit are bounded by a geometric series.
        """
        total, limit = int(self.rows[0]), int(self.most_lost[0])
        rest = limit - math.ceil(_WINDOW_SIGMAS * (math.sqrt(total) + 1))
        probability = self.binomial(total, np.arange(max(rest, -1) + 1, limit + 1), lost_share).sum(1)
        if rest >= 0:
            ratio = rest * (1 - lost_share) / ((total - rest + 1) * lost_share)
            below = self.binomial(total, np.array([rest]), lost_share)[:, 0]
            probability += np.where(ratio < 1, below / np.where(ratio < 1, 1 - ratio, 1.0), 1.0)
        bounded: Floats = np.minimum(probability, 1.0)
        return bounded

    def lost_at_most(self, lost_share: Floats) -> Floats:
        """P(at most `most_lost` of k changed rows are lost), each with `lost_share`: (cells,) -> (cells, totals).

        From one total to the next a single term of the binomial distribution comes or goes:
        P(B' <= b) = P(B <= b) - share P(B = b), and the limit b grows by no more than one.
        """
        before, after = self.most_lost[:-1], self.most_lost[1:]
        change = np.where(after > before, self.binomial(self.rows[1:], after, lost_share), 0.0)
        change -= lost_share[:, None] * self.binomial(self.rows[:-1], before, lost_share)
        start = self.first_lost_at_most(lost_share)[:, None]
        return np.cumsum(np.concatenate((start, change), axis=1), axis=1)


def ternary_upper_bound(lost: int, won: int, n: int, alpha: float) -> float:
    """Upper bound on P(lost) - P(won) that holds with probability 1 - alpha at every n and for every (P(lost), P(won)).

    `lost` rows of the `n` went from right to wrong, `won` the other way. The tail probability of the observed outcome
    is inverted (Buehler 1957) in the order of b - c + z sqrt(b + c + z^2 / 4), which is a score bound's. The share of
    rows that change is a nuisance: it is confined to a Chernoff interval of error 0.02 alpha (Berger & Boos 1994), and
    that interval is cut into cells. Within a cell the probability is bounded by monotonicity, moving mass from lost
    over same to won can only raise it, so that the maximum is a bound and not a search on a grid.
    """
    error = _NUISANCE_SHARE * alpha
    low, high = chernoff_interval(lost + won, n, error)
    edges = np.linspace(low, high, _CELLS + 1)
    changed = np.clip((edges[:-1] + edges[1:]) / 2, 1e-300, 1 - 1e-16)
    region = _Region.of(lost, won, n, alpha, (low, high))
    totals = region.probability_of_totals(changed)
    # Totals outside the window count as if they all spoke for a small drop.
    outside = np.maximum(1 - totals.sum(1), 0.0)
    smallest, largest = np.zeros(_CELLS), np.ones(_CELLS)
    for _ in range(_BISECTIONS):
        share = (smallest + largest) / 2
        likely = outside + (totals * region.lost_at_most(share)).sum(1) > alpha - error
        smallest, largest = np.where(likely, share, smallest), np.where(likely, largest, share)
    drop = (2 * largest - 1) * changed + (edges[1:] - edges[:-1]) / 2
    # So few rows change in some cells that not even with none of them lost would the outcome be likely.
    possible = region.none_lost(np.minimum(edges[1:], 1 - 1e-16)) > alpha - error
    return min(float(drop[possible].max()), 1.0)


def chernoff_interval(successes: int, n: int, error: float) -> tuple[float, float]:
    """Two-sided interval for a probability, wrong at most with `error`: n KL(successes / n, p) <= log(2 / error)."""
    observed, limit = successes / n, math.log(2 / error) / n

    def edge(outside: float) -> float:
        inside = observed
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if _relative_entropy(observed, middle) <= limit else (inside, middle)
        return outside

    return edge(0.0), edge(1.0)


def _relative_entropy(observed: float, p: float) -> float:
    """KL divergence of Bernoulli(p) from Bernoulli(observed), in nats."""
    won = observed * math.log(observed / p) if observed > 0 else 0.0
    return won + ((1 - observed) * math.log((1 - observed) / (1 - p)) if observed < 1 else 0.0)
