"""Our numbers are those of the systems and papers that people trust."""

import pytest
import torch

import parity


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case in parity.all_cases() for dtype in case.dtypes],
    ids=lambda value: f"{value.part} | {value.peer}" if isinstance(value, parity.Case) else str(value),
)
def test_both_sides_agree(case, dtype):
    """Value and gradient, on random ragged batches."""
    value, gradient = case.errors(dtype)
    assert value <= parity.TOLERANCES[dtype]
    assert gradient <= parity.TOLERANCES[dtype]


def test_the_page_has_a_row_for_each_case():
    """With the installed version of the peer."""
    page = parity.rows(parity.PAGE.read_text(encoding="utf-8"))
    assert page == [case.key for case in parity.all_cases()], "run python tests/parity/parity.py"


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [(1.0, 2.0, 0.5), (0.0, 0.0, 0.0), (3.0, 0.0, 3.0), (float("nan"), 1.0, float("inf"))],
)
def test_an_error_is_relative_to_the_peer(ours, theirs, error):
    """And NaN is never agreement."""
    sides = [(torch.tensor(value), {}) for value in (ours, theirs)]
    assert parity.Case("a", "b", lambda seed, dtype: (sides[0], sides[1])).errors(torch.float64) == (error, 0.0)
