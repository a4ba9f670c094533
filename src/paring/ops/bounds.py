"""Upper confidence bounds on the mean of independent bounded differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ORDERS = 32
_BLOCKS = 500
_LEVELS = 16
_LEVELS_A_ROW = 4
_LEVELS_AT_LEAST = 2048
_CONSTANT_SHARE = 0.05
_OVERSHOOT = 1.5
_PRIOR_SHARE = 0.03
_LARGEST_BET = 0.85
_CONSTANT_BETS = 48


def normal_upper_bound(differences: Floats, alpha: float) -> float:
    """Mean plus z standard errors: (n,) -> a bound that holds with 1 - alpha only as n grows. For comparison."""
    z = NormalDist().inv_cdf(1 - alpha)
    return float(differences.mean() + z * differences.std() / math.sqrt(len(differences)))


def betting_upper_bound(differences: Floats, alpha: float, span: float = 1.0) -> float:
    """Upper bound on the mean of iid differences in [-span, span], (n,), that holds with 1 - alpha at every n.

    A mean m is ruled out where betting that the mean is lower would have turned 1 into 1 / alpha (Waudby-Smith & Ramdas
    2024, "Estimating means of bounded random variables by betting", section 4): under a mean of m or more the expected
    wealth is at most 1. Ours is a portfolio, its wealth the weighted mean of

    - `_constant_wealth`: bets held throughout, a mixture over their size. It rises with m, so that every mean above
      the point where it alone suffices is ruled out.
    - `_target_wealth`, over several fixed orders of the rows: bets that aim at 1 / alpha after exactly n rows. This is
      where we leave the paper, whose bets are for all n at once; the bound is a third nearer to the mean.

    The bound is the level above the largest one not ruled out, of levels 1 / (4 n + 2048) of the span apart that lie
    where they lie whatever the rows are. Betting at the last level below the mean is fair, and the bound fails only
    where that very level is ruled out: with `alpha` at most. The wealth of the aiming bets need not rise with m for
    that; that of the constant bets does, and spares the levels above the point where they suffice.

    The bound depends on the order of the rows a little: averaging over the orders leaves some 3 % of its distance from
    the mean.
    """
    scaled = np.clip(np.asarray(differences, dtype=np.float64) / span, -1.0, 1.0)
    if scaled.min() == 1.0:
        return span
    wealth = _Portfolio.of(scaled, alpha)
    step = 1 / (_LEVELS_A_ROW * len(scaled) + _LEVELS_AT_LEAST)
    below = math.ceil((_first_ruled_out(wealth) + 1) / step)
    while True:
        # The lowest level of all, -1, is never ruled out: no row can lie below it.
        levels = np.arange(below - 1, max(below - 1 - _LEVELS, -1), -1)
        open_ = np.flatnonzero(~wealth.rules_out(np.asarray(levels * step - 1, dtype=np.float64)))
        if open_.size:
            return max(float((levels[open_[0]] + 1) * step - 1), float(scaled.mean())) * span
        below = int(levels[-1])


@dataclass(frozen=True)
class _Portfolio:
    """Differences in [-1, 1]: the distinct ones with their counts, and all of them in several orders."""

    values: Floats
    counts: Floats
    orders: Floats
    alpha: float

    @classmethod
    def of(cls, differences: Floats, alpha: float) -> _Portfolio:
        """The rows as they come, and in orders drawn without a look at them: each order of iid rows is iid too."""
        values, counts = np.unique(differences, return_counts=True)
        draw = np.random.default_rng(0)
        more = _ORDERS - 1 if len(values) > 1 else 0
        others = [differences[draw.permutation(len(differences))] for _ in range(more)]
        return cls(values, counts.astype(np.float64), np.stack([differences, *others]), alpha)

    def log_constant(self, means: Floats) -> Floats:
        """Log wealth of the constant bets with their weight: (levels,) -> (levels,)."""
        return _constant_wealth(self.values, self.counts, means) + math.log(_CONSTANT_SHARE)

    def rules_out(self, means: Floats) -> npt.NDArray[np.bool_]:
        """Whether the wealth at each mean reached 1 / alpha: (levels,) -> (levels,)."""
        each = _target_wealth(self.orders, means, self.alpha / _OVERSHOOT)
        orders = np.logaddexp.reduce(each, axis=0) - math.log(len(self.orders)) + math.log1p(-_CONSTANT_SHARE)
        decision: npt.NDArray[np.bool_] = np.logaddexp(orders, self.log_constant(means)) >= -math.log(self.alpha)
        return decision


def _first_ruled_out(portfolio: _Portfolio) -> float:
    """The smallest mean that the constant bets alone rule out, with every mean above it; at most 1."""
    low, high = float(portfolio.values[0]), 1.0
    for _ in range(30):
        middle = (low + high) / 2
        out = portfolio.log_constant(np.array([middle]))[0] >= -math.log(portfolio.alpha)
        low, high = (low, middle) if out else (middle, high)
    return high


def _constant_wealth(values: Floats, counts: Floats, means: Floats) -> Floats:
    """Log of the mean wealth over bets of 1/sqrt(n) .. 1 of the largest allowed one: (levels,) -> (levels,).

    A bet of share s at level m multiplies the wealth by 1 - s + s (1 - x) / (1 - m), which rises with m.
    """
    shares = np.geomspace(min(0.5, 1 / math.sqrt(counts.sum())), _LARGEST_BET, _CONSTANT_BETS)
    gain = (means[:, None] - values) / (1 - means[:, None])
    log_wealth = np.stack([np.log1p(share * gain) @ counts for share in shares])
    result: Floats = np.logaddexp.reduce(log_wealth, axis=0) - math.log(len(shares))
    return result


def _target_wealth(orders: Floats, means: Floats, alpha: float) -> Floats:
    """Log wealth of bets that aim at 1 / alpha after the last row: (orders, n), (levels,) -> (orders, levels).

    With r rows left, variance v and wealth w, the best chance to end at 1 / alpha is that of an option which pays
    1 / alpha where the rows left sum low enough, and the bet that follows it is phi(q) / (alpha w) / sqrt(r v) with
    q = Phi^-1(alpha w): small once the target is near, bold where time runs out. It is held for a block of rows; v is
    the mean square so far. Neither looks ahead, so the wealth is fair whatever they are.
    """
    n = orders.shape[1]
    log_shares, ratios = _inverse_mills_ratios()
    log_wealth = np.zeros((len(orders), len(means)))
    squares = np.zeros_like(log_wealth)
    # Of all that have this mean, the smallest variance that rows of -1, 0 and 1 can have: it lets early bets be bold.
    prior = np.maximum(np.abs(means) * (1 - np.abs(means)), 1e-12)
    edges = np.linspace(0, n, min(_BLOCKS, n) + 1).astype(np.int64)
    for start, stop in pairwise(edges.tolist()):
        variance = (prior * _PRIOR_SHARE * n + squares) / (_PRIOR_SHARE * n + start)
        boldness = np.interp(log_wealth + math.log(alpha), log_shares, ratios)
        bet = np.minimum(boldness / np.sqrt((n - start) * variance), _LARGEST_BET / (1 - means))
        gaps = means[:, None] - orders[:, None, start:stop]
        log_wealth += np.log1p(bet[:, :, None] * gaps).sum(axis=2)
        squares += np.square(gaps).sum(axis=2)
    return log_wealth


def _inverse_mills_ratios() -> tuple[Floats, Floats]:
    """A table of phi(q) / p with q = Phi^-1(p), over log p: 0 at p = 1, where the target is reached."""
    normal = NormalDist()
    shares = np.exp(np.concatenate((np.linspace(-60, -3, 115), np.linspace(-3, -0.001, 300)[1:])))
    ratios = [normal.pdf(normal.inv_cdf(share)) / share for share in shares.tolist()]
    return np.append(np.log(shares), 0.0), np.append(ratios, 0.0)


def unseen_share(n: int, alpha: float) -> float:
    """Upper bound, at error `alpha`, on the share of a kind of row of which `n` rows show none: 1 - alpha ** (1 / n).

    The rule of three, exactly (Hanley and Lippman-Hand 1983).
    """
    return -math.expm1(math.log(alpha) / n)
