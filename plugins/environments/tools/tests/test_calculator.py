"""The calculator computes what Python does, exactly, and refuses all else."""

from __future__ import annotations

import contextlib
import math
from fractions import Fraction

import pytest
from hypothesis import given, strategies

from dovetail_tools.calculator import evaluate
from dovetail_tools.tool import ToolError

numbers = strategies.integers(-999, 999)
expressions = strategies.recursive(
    numbers.map(str),
    lambda inner: strategies.tuples(inner, strategies.sampled_from("+-*"), inner).map(lambda t: f"({''.join(t)})"),
    max_leaves=8,
)


@given(expressions)
def test_whole_numbers_are_exact(expression):
    """As Python's own, which never rounds them."""
    assert evaluate(expression) == str(eval(expression))


@given(numbers, numbers, numbers)
def test_fractions_are_exact(a, b, c):
    """(a / c + b / c) * c is a + b, whatever c."""
    if c:
        assert evaluate(f"({a}/{c} + {b}/{c}) * {c}") == str(Fraction(a + b))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2^3+1", "9"), ("-2^2", "-4"), ("2**-1", "0.5"), ("7//2", "3"), ("-7%3", "2"), ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"), ("sqrt(16)", "4"), ("max(1, 2, 3)", "3"), ("round(2.5)", "2"), ("2*pi", "6.28318530718"),
        ("floor(-0.5)", "-1"), (" 1 + 1 ", "2"), ("3×4", "12"), ("10^30", "1" + "0" * 30), ("2^0.5", "1.41421356237"),
    ],
)  # fmt: skip
def test_it_knows_what_a_pocket_calculator_knows(expression, value):
    """Precedence as in mathematics; decimals are what they look like."""
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "1 +", "two", "x*2", "__import__('os')", "().__class__", "[1]", "'a'*9", "1 if 1 else 2", "lambda: 1",
        "9^9^9^9", "10^5000", "1e999", "2^-99999", "factorial(5)", "sqrt(-1)", "(-1)^0.5", "1/0", "1%0", "log(0)",
        "max()", "exp(9999)", "1" * 300, "(" * 120 + "1" + ")" * 120, "True + 1", "1j", "abs(x=1)", "1 < 2", "a.b", "f(1)(2)",
        "0^-1", "sqrt16", "1,2", "*[1]", "1\x00", "pi pi", "max(*[1,2])", "round(1.5, 1.5)",
    ],
)  # fmt: skip
def test_all_else_is_refused(expression):
    """With a sentence; a letter is never dropped, and nothing runs for long."""
    with pytest.raises(ToolError) as error:
        evaluate(expression)
    assert str(error.value)


@given(strategies.text(max_size=60) | strategies.text("0123456789+-*/^()., esqrtpi", max_size=60))
def test_no_text_does_harm(expression):
    """It has a finite value or is refused."""
    with contextlib.suppress(ToolError):
        assert math.isfinite(float(evaluate(expression)))


def test_operations_can_be_limited():
    """So that a calculation takes several calls."""
    assert evaluate("12+7", 1) == "19"
    with pytest.raises(ToolError, match="may have 1 operations, and this one has 2"):
        evaluate("(12+7)*3", 1)
