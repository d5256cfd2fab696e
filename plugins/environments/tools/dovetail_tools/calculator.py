"""A calculator that computes what it is given, exactly where it can, or says why not; never ``eval``."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from dovetail_tools.tool import ToolError

LONGEST = 256
_BITS = 4096
Number = Fraction | float

_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "round": round, "floor": math.floor, "ceil": math.ceil,
    "sqrt": math.sqrt, "exp": math.exp, "log": math.log, "log10": math.log10,
    "sin": math.sin, "cos": math.cos, "tan": math.tan,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}


def evaluate(expression: str, most_operations: int = 0) -> str:
    """The value of an arithmetic expression as text: exact for whole numbers and fractions, else 12 digits.

    Args:
        expression: ``+ - * / // % ^ **``, parentheses, ``sqrt`` and its like, ``pi`` and ``e``.
        most_operations: Operations in one expression; 0 sets no limit.

    Raises:
        ToolError: It is no such expression, has too many operations, or a value that is undefined or too large.
    """
    if len(expression) > LONGEST:
        raise ToolError(f"the expression has {len(expression)} characters, and {LONGEST} are allowed")
    try:
        tree = ast.parse(expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/"), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError(f"{expression!r} is no arithmetic expression") from None
    operations = sum(isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(tree))
    if most_operations and operations > most_operations:
        raise ToolError(f"one call may have {most_operations} operations, and this one has {operations}")
    try:
        return _shown(_value(tree))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except (OverflowError, ValueError, TypeError, RecursionError) as error:
        raise ToolError(f"{expression!r} has no value: {error}") from None


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(str(node.value)))
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATORS:
            return _bounded(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in _FUNCTIONS:
            return _bounded(_FUNCTIONS[node.func.id](*(_value(argument) for argument in node.args)))
        raise ToolError(f"there is no function {node.func.id!r}; there are {', '.join(_FUNCTIONS)}")
    raise ToolError(f"{ast.unparse(node)!r} is no number")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(exponent.numerator) > _BITS:
            raise ToolError("the number is too large")
        return _bounded(base**exponent.numerator)
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ToolError("the root of a negative number is no real number")
    return value


def _bounded(value: Any) -> Number:
    if isinstance(value, int):
        value = Fraction(value)
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _BITS:
        raise ToolError("the number is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("the number is too large")
    return value  # type: ignore[no-any-return]


def _shown(value: Number) -> str:
    if isinstance(value, Fraction) and value.denominator == 1:
        return str(value.numerator)
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else f"{number:.12g}"
