"""The kernel and its reference against the textbook's sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged
from dovetail.testing import check_kernel
from dovetail_advantages import discounted_sums, scan, whitened


@pytest.mark.parametrize("check", check_kernel(scan), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


ROWS = st.lists(st.tuples(st.lists(st.floats(-4, 4, width=32), max_size=40), st.floats(0, 1, width=32)), max_size=6)


def textbook(terms, factor):
    """``S_t = Σ_{k≥t} factor^(k-t) x_k``, each sum by itself, in float64."""
    return [sum(factor ** (k - t) * terms[k] for k in range(t, len(terms))) for t in range(len(terms))]


@settings(deadline=None)
@given(ROWS, st.sampled_from([(torch.float32, 1e-6), (torch.float64, 1e-12)]))
def test_each_token_has_the_discounted_sum_of_what_follows(rows, precision):
    """Rows of any length, a factor for each; float32 to 1e-6 of the largest sum, float64 exactly."""
    dtype, tolerance = precision
    terms = Ragged.from_rows([torch.tensor(row, dtype=dtype) for row, _ in rows] or [torch.zeros(0, dtype=dtype)])
    factor = torch.tensor([by for _, by in rows] or [1.0], dtype=dtype)
    expected = [value for row, by in rows for value in textbook(row, by)]
    found = discounted_sums(terms, factor)
    assert found.values.dtype == dtype
    assert found.values.tolist() == pytest.approx(expected, abs=tolerance * max(1, *map(abs, expected), 1))


def test_long_rows_keep_their_precision():
    """GAE over 32,768 tokens with γ λ = 0.95, float32 against float64."""
    values = torch.randn(32_768 + 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = Ragged.from_lengths(values, torch.tensor([32_768, 3]))
    factor = torch.tensor([0.95, 1.0], dtype=torch.float64)
    exact = discounted_sums(terms, factor).values
    found = discounted_sums(terms.to(torch.float32), factor.float()).values
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max()


def test_gradients_flow_through_torch():
    """The kernel has none; where they are wanted, the reference computes."""
    terms = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    rows = Ragged(terms, torch.tensor([0, 3]))
    discounted_sums(rows, torch.tensor([0.5])).values[0].backward()
    assert terms.grad.tolist() == [1.0, 0.5, 0.25]


def test_whitening_gives_mean_0_and_sample_variance_1():
    """Over all tokens; a single one stays as it is."""
    values = whitened(Ragged.from_rows([[1.0, 4.0], [], [2.5, -3.0]])).values
    assert values.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert values.var().item() == pytest.approx(1.0, rel=1e-5)
    assert whitened(Ragged.from_rows([[3.0]])).values.tolist() == [3.0]
