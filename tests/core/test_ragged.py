"""Ragged rows behave as lists of lists do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail import DataError, Ragged

rows_of_numbers = st.lists(st.lists(st.integers(-50, 50), max_size=6), min_size=1, max_size=6)


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged.from_rows(rows, dtype=torch.float64)


@given(rows_of_numbers)
def test_lists_come_back_as_they_went_in(rows):
    """from_rows and tolist are inverse."""
    assert ragged(rows).tolist() == [[float(value) for value in row] for row in rows]


@given(rows_of_numbers)
def test_padding_round_trip(rows):
    """to_padded and from_padded are inverse, whatever the fill."""
    values = ragged(rows)
    padded = values.to_padded(fill=7.5, length=8)
    mask = torch.arange(8) < values.lengths[:, None]
    assert Ragged.from_padded(padded, mask).tolist() == values.tolist()
    assert bool((padded[~mask] == 7.5).all())


@given(rows_of_numbers)
def test_segment_reductions_are_those_of_rows(rows):
    """Sum, mean and max are taken row by row; empty rows give 0."""
    values = ragged(rows)
    assert values.sum().tolist() == [float(sum(row)) for row in rows]
    assert values.mean().tolist() == pytest.approx([sum(row) / len(row) if row else 0.0 for row in rows])
    assert values.max().tolist() == [float(max(row)) if row else 0.0 for row in rows]


@given(rows_of_numbers, st.randoms())
def test_select_takes_rows_in_the_order_given(rows, random):
    """select by index is list indexing; by mask, filtering."""
    values, order = ragged(rows), [random.randrange(len(rows)) for _ in range(4)]
    assert values.select(order).tolist() == [list(map(float, rows[i])) for i in order]
    mask = torch.tensor([len(row) > 2 for row in rows])
    assert values.select(mask).tolist() == [list(map(float, row)) for row in rows if len(row) > 2]


@given(rows_of_numbers)
def test_where_keeps_rows_and_drops_values(rows):
    """where filters values; every row stays."""
    values = ragged(rows)
    kept = values.where(values.values > 0)
    assert kept.tolist() == [[float(v) for v in row if v > 0] for row in rows]


@given(rows_of_numbers, st.integers(1, 3))
def test_repeat_and_cat(rows, times):
    """repeat puts copies side by side, cat stacks."""
    values = ragged(rows)
    assert values.repeat(times).tolist() == [row for row in values.tolist() for _ in range(times)]
    assert Ragged.cat([values, values]).tolist() == values.tolist() * 2


@given(rows_of_numbers)
def test_positions_and_row_ids_address_every_value(rows):
    """row_ids and positions say where each value stands."""
    values = ragged(rows)
    found = [values.tolist()[r][p] for r, p in zip(values.row_ids.tolist(), values.positions.tolist(), strict=True)]
    assert found == values.values.tolist()


@given(rows_of_numbers)
def test_a_value_per_row_is_spread_over_its_tokens(rows):
    """The one broadcast rule: arithmetic with [B] reaches every token of the row."""
    values = ragged(rows)
    per_row = torch.arange(len(rows), dtype=torch.float64)
    assert (values + per_row).tolist() == [[v + i for v in row] for i, row in enumerate(values.tolist())]
    assert (1.0 - values).tolist() == [[1.0 - v for v in row] for row in values.tolist()]
    assert ((-values) * 2 + values + values).values.abs().sum() == 0


def test_arithmetic_between_ragged():
    """Rows of the same lengths combine; others are refused."""
    left, right = Ragged.from_rows([[1.0, 2.0], [4.0]]), Ragged.from_rows([[2.0, 2.0], [2.0]])
    assert (left / right).tolist() == [[0.5, 1.0], [2.0]]
    assert (8.0 / right - left * right).tolist() == [[2.0, 0.0], [-4.0]]
    with pytest.raises(DataError, match="different rows"):
        left + Ragged.from_rows([[1.0], [2.0, 3.0]])


def test_gradients_flow_through_reductions():
    """Segment sums are differentiable."""
    flat = torch.ones(3, requires_grad=True)
    (Ragged.from_lengths(flat, torch.tensor([2, 1])).sum() * torch.tensor([1.0, 5.0])).sum().backward()
    assert flat.grad.tolist() == [1.0, 1.0, 5.0]


def test_no_rows_at_all():
    """Zero rows are fine everywhere."""
    nothing = Ragged.from_rows([])
    assert len(nothing) == 0
    assert nothing.to_padded().shape == (0, 0)
    assert nothing.select([]).tolist() == []
    assert ragged([[1, 2]]).select([]).tolist() == []


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        (3, [0, 2], "rise from 0"),
        (3, [1, 3], "rise from 0"),
        (3, [0, 3, 2, 3], "rise from 0"),
    ],
)
def test_offsets_are_checked_at_the_border(values, offsets, message):
    """Offsets that do not describe the values are refused."""
    with pytest.raises(DataError, match=message):
        Ragged(torch.zeros(values), torch.tensor(offsets))
    with pytest.raises(DataError, match="int64"):
        Ragged(torch.zeros(3), torch.tensor([0.0, 3.0]))


def test_values_must_fit():
    """with_values, spread and indexing check sizes."""
    rows = Ragged.from_rows([[1, 2], [3]])
    with pytest.raises(DataError, match="do not fit"):
        rows.with_values(torch.zeros(2))
    with pytest.raises(DataError, match="value per sequence"):
        rows.spread(torch.zeros(3))
    with pytest.raises(IndexError, match="row 2"):
        rows[2]
    assert rows[-1].tolist() == [3]


def test_repr_says_what_is_inside():
    """The repr shows rows, tokens, lengths, dtype and device."""
    text = repr(Ragged.from_rows([[1, 2], [3]]))
    assert text == "Ragged(2 rows, 3 tokens, lengths [2, 1], int64 on cpu)"
    assert "…" in repr(Ragged.from_rows([[1]] * 9))


def test_moves_and_casts():
    """to casts values and keeps rows."""
    rows = Ragged.from_rows([[1, 2], []], dtype=torch.int64).to(torch.float32)
    assert rows.values.dtype == torch.float32
    assert rows.map(torch.exp).exp().clamp(max=1).detach().tolist()[1] == []


def test_a_row_is_a_sequence():
    """A bare number where a row belongs is refused, in whatever position."""
    with pytest.raises(DataError, match="single number"):
        Ragged.from_rows([[1.0], 2.0])


def test_empty_rows_do_not_change_the_dtype():
    """An empty list reads as float32; integers beside it stay integers, and empty rows alone keep theirs."""
    assert Ragged.from_rows([[], [1, 2], []]).values.dtype == torch.int64
    assert Ragged.from_rows([torch.empty(0, dtype=torch.int32)]).values.dtype == torch.int32
    assert Ragged.from_rows([], dtype=torch.uint8).values.dtype == torch.uint8


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([True]), r"a mask of shape \[1\] does not fit 2 rows"),
        (torch.tensor([0.0, 1.0]), "by index or by mask, got float32"),
    ],
)
def test_rows_are_taken_by_fitting_masks_and_whole_numbers(rows, message):
    """A short mask or a float index would take other rows than meant."""
    with pytest.raises(DataError, match=message):
        Ragged.from_rows([[1, 2], [3]]).select(rows)


def test_where_takes_a_mask_over_all_tokens():
    """A mask of another shape is refused; 0 and 1 do as well as False and True."""
    rows = Ragged.from_rows([[1, 2], [3]])
    assert rows.where(torch.tensor([1, 0, 1])).tolist() == [[1], [3]]
    for mask in (torch.tensor([True, False]), torch.ones(3, 1, dtype=torch.bool)):
        with pytest.raises(DataError, match="does not fit 3 tokens"):
            rows.where(mask)


def test_whole_numbers_and_truth_values_are_counted_not_wrapped():
    """Sums of uint8 and bool are int64, and their means are fractions."""
    small = Ragged.from_rows([[200, 100], [1]], dtype=torch.uint8)
    assert small.sum().tolist() == [300, 1]
    assert small.mean().tolist() == [150.0, 1.0]
    assert Ragged.from_rows([[True, True, False], []]).sum().tolist() == [2, 0]


def test_rows_of_vectors_meet_values_from_the_left():
    """[B, D] per row and [N] per token both reach every entry of [N, D]."""
    vectors = Ragged(torch.ones(3, 2), torch.tensor([0, 2, 3]))
    assert vectors.spread(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[[1.0, 2.0]] * 2, [[3.0, 4.0]]]
    assert (vectors * torch.tensor([2.0, 3.0])).tolist() == [[[2.0, 2.0]] * 2, [[3.0, 3.0]]]
    assert (vectors + Ragged.from_rows([[0.0, 1.0], [2.0]])).tolist() == [[[1.0, 1.0], [2.0, 2.0]], [[3.0, 3.0]]]
    assert vectors.mean().tolist() == [[1.0, 1.0]] * 2


def test_a_row_longer_than_the_padding_is_refused():
    """Nothing is cut in silence."""
    with pytest.raises(DataError, match="a row of 3 tokens does not fit a padded length of 2"):
        Ragged.from_rows([[1, 2, 3]]).to_padded(length=2)


def test_numbers_and_tensors_on_the_left():
    """A NumPy number or a tensor of values per row combines as on the right."""
    rows = Ragged.from_rows([[1.0, 2.0], [4.0]])
    assert (np.float64(2) * rows).tolist() == (np.int64(2) * rows).tolist() == [[2.0, 4.0], [8.0]]
    assert (np.float32(1) - rows).tolist() == [[0.0, -1.0], [-3.0]]
    assert (torch.tensor([2.0, 8.0]) / rows).tolist() == [[2.0, 1.0], [2.0]]
    thirds = torch.tensor([1.0, 2.0]) / Ragged.from_rows([[3.0], [3.0]])
    assert thirds.values.tolist() == (torch.tensor([1.0, 2.0]) / 3.0).tolist()
