"""What the reward promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_length import Length

CASES = [("target", {"target": 10}), ("limit", {"limit": 12, "buffer": 4}), ("default", {})]
CHECKS = [(n, c) for n, options in CASES for c in part_checks("rewards", "length", options=options, bounds=(-1, 0))]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=lambda value: str(value))
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


def test_target_is_best_and_both_sides_are_alike():
    """The target scores 0, and equal distances score alike."""
    completions = tiny_rollouts(lengths=(10, 8, 12, 40)).completions
    assert Length(target=10).score(completions).tolist() == pytest.approx([0.0, -0.2, -0.2, -1.0])


def test_soft_overlong_punishment():
    """DAPO's equation 13: 0 up to limit - buffer, then a straight line to -1."""
    completions = tiny_rollouts(lengths=(8, 10, 12, 40)).completions
    assert Length(limit=12, buffer=4).score(completions).tolist() == pytest.approx([0.0, -0.5, -1.0, -1.0])


LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=8)


def rows(lengths) -> Ragged:
    return Ragged.from_rows([[0] * length for length in lengths])


@given(LENGTHS, st.integers(1, 40))
def test_target_keeps_its_formula(lengths, target):
    """-|length - target| / target, floored at -1."""
    expected = [max(-1.0, -abs(length - target) / target) for length in lengths]
    assert Length(target=target).score(rows(lengths)).tolist() == pytest.approx(expected)


@given(LENGTHS, st.integers(1, 40), st.data())
def test_limit_keeps_the_three_cases_of_the_paper(lengths, limit, data):
    """Equation 13, written case by case; a buffer may be as long as the limit."""
    buffer = data.draw(st.integers(1, limit))

    def punishment(length: int) -> float:
        if length <= limit - buffer:
            return 0.0
        return ((limit - buffer) - length) / buffer if length <= limit else -1.0

    scores = Length(limit=limit, buffer=buffer).score(rows(lengths)).tolist()
    assert scores == pytest.approx([punishment(length) for length in lengths])


def test_a_quarter_of_the_limit_is_the_buffer_unless_it_is_given():
    """It is never shorter than a token."""
    assert Length(limit=40).score(rows([30, 35, 40])).tolist() == pytest.approx([0.0, -0.5, -1.0])
    assert Length(limit=1).score(rows([0, 1])).tolist() == pytest.approx([0.0, -1.0])


@pytest.mark.parametrize(
    "options", [{"target": 3, "limit": 4}, {"buffer": 3}, {"limit": 3, "buffer": 4}, {"target": 0}]
)
def test_options_that_exclude_each_other_are_refused(options):
    """The error names the part."""
    with pytest.raises(OptionError, match="rewards part 'length'"):
        rewards.length(**options)
