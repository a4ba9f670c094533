"""Patterns of zeros and the reconstruction of what stays, for any weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paring.errors import TechniqueError
from paring.ops.reconstruction import dampened, reconstructed
from paring.ops.sparsity import Blocks, NOfM, lowest, lowest_of_each, pattern_of


def scores(seed: int, rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.data())
def test_of_every_m_inputs_the_n_highest_stay(seed: int, rows: int, runs: int, n: int, draw: st.DataObject) -> None:
    m = draw.draw(st.integers(n + 1, n + 5))
    values = scores(seed, rows, runs * m)
    mask = NOfM(n, m).mask(values).reshape(rows, runs, m)
    assert (mask.sum(-1) == n).all()
    grouped = values.reshape(rows, runs, m)
    weakest = grouped.masked_fill(~mask, 9).amin(-1)
    assert (weakest >= grouped.masked_fill(mask, -9).amax(-1)).all()


@given(
    st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.99)
)
def test_blocks_go_as_a_whole_and_never_more_than_the_share(
    seed: int, down: int, across: int, rows: int, columns: int, share: float
) -> None:
    values = scores(seed, down * rows, across * columns)
    blocks = Blocks(rows, columns)
    pooled = blocks.pooled(values)
    torch.testing.assert_close(pooled.sum(), values.sum())
    (stays,) = lowest([pooled], share)
    mask = blocks.spread(stays)
    assert mask.shape == values.shape
    assert torch.equal(blocks.pooled(mask.double()), stays.double() * rows * columns)
    assert 0 <= share - float((~mask).double().mean()) < 1 / (down * across) + 1e-9
    assert stays.all() or pooled[stays].min() >= pooled[~stays].max()


def test_the_lowest_of_several_layers_go_together() -> None:
    first, second = lowest([torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0], [3.0]])], 0.5)
    assert first.tolist() == [[False, True]]
    assert second.tolist() == [[False], [True]]


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 9), st.floats(0, 0.99), st.integers(1, 4))
def test_of_each_row_the_lowest_go_and_of_equal_ones_the_first(
    seed: int, rows: int, columns: int, share: float, values: int
) -> None:
    ties = scores(seed, rows, columns).mul(values).floor()
    mask = lowest_of_each(ties, share)
    for row, stays in zip(ties, mask, strict=True):
        assert torch.equal(stays, lowest([row], share)[0])


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "2-4", "0x4", "", "x", "1x", "2:4 "])
def test_an_unknown_pattern_is_refused(text: str) -> None:
    with pytest.raises(TechniqueError, match=f"pattern={text!r} is unknown: use '1x1' for single weights"):
        pattern_of(text)


@given(st.integers(0, 99), st.integers(1, 5), st.integers(2, 12), st.floats(0, 0.9))
def test_what_stays_is_solved_for_row_by_row(seed: int, rows: int, n: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    inputs = torch.randn(n, 3 * n, generator=generator, dtype=torch.float64)
    gram = inputs @ inputs.T
    mask = torch.rand(rows, n, generator=generator) >= share
    found = reconstructed(weight, mask, gram)
    assert not found[~mask].any()
    hessian = dampened(gram)
    for row in range(rows):
        kept = mask[row]
        wanted = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[row])
        torch.testing.assert_close(found[row, kept], wanted, rtol=1e-4, atol=1e-5)


def test_inputs_that_were_never_seen_keep_their_weights() -> None:
    weight = torch.randn(2, 3)
    found = reconstructed(weight, torch.tensor([[True, False, True]] * 2), torch.zeros(3, 3))
    torch.testing.assert_close(found[:, [0, 2]], weight[:, [0, 2]])
