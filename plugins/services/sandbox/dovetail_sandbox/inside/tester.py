"""Tests run in a process of their own. The solution lives in another one, which sees arguments and nothing else.

What comes back are plain values of exact types, so there is no ``__eq__`` to lie with; and no exit code, no output and
no exception of the solution ends the tests early with success.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import os
from collections.abc import Callable
from typing import Any

from dovetail_sandbox.inside.values import decode, encode

_LONGEST = 4 << 20  # bytes of one reply
_SHOWN = 300
# An iteration takes them as its end: `all(map(solution, …))` would be true.
_NOT_RAISED = (StopIteration, StopAsyncIteration)


class Lost(BaseException):
    """The solution's process is gone."""


class SolutionError(Exception):
    """The solution raised what the tests cannot be given as it is."""


class Solution:
    """The other process, seen from the tests."""

    def __init__(self, descriptor: int) -> None:
        self._write = os.fdopen(descriptor, "wb", buffering=0, closefd=False)
        self._read = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - it lives as long as the process
        self.calls = 0
        self.last: dict[str, Any] = {}

    def wait(self) -> None:
        """Until it has loaded."""
        self._line()

    def function(self, name: str) -> Callable[..., Any]:
        """Calls of it are made over there."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._call(name, arguments, keywords)

        call.__name__ = name
        return call

    def _call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        message = {"name": name, "arguments": encode(arguments), "keywords": encode(keywords)}
        shown = [*map(repr, arguments), *(f"{key}={value!r}" for key, value in keywords.items())]
        self.calls += 1
        self.last = {"call": f"{name}({', '.join(shown)})"[:_SHOWN]}
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[self._write.write(data) or 0 :]
        except OSError:
            raise Lost from None
        try:
            reply = json.loads(self._line())
            error = reply.get("error")
            value = None if error else decode(reply["value"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            self.last["error"] = "the returned value cannot be read"
            raise SolutionError from None
        if error:
            raise self._raised(str(error), str(reply.get("message", "")))
        self.last["returned"] = _short(value)
        return value

    def _raised(self, name: str, message: str) -> Exception:
        self.last["error"] = f"{name}: {message}"[:_SHOWN]
        kind = getattr(builtins, name, None)
        fits = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NOT_RAISED)
        try:
            return kind(message) if fits else SolutionError(name)  # type: ignore[misc]
        except TypeError:
            return SolutionError(name)

    def _line(self) -> bytes:
        try:
            line = self._read.readline(_LONGEST)
        except OSError:
            raise Lost from None
        if not line.endswith(b"\n"):
            raise Lost  # it is gone, or says too much
        return line


class Verdict:
    """Counts cases. ``first`` is what is known of the first one that failed."""

    def __init__(self, solution: Solution) -> None:
        self._solution = solution
        self.passed = self.seen = 0
        self.first: dict[str, Any] | None = None

    def case(self, holds: Callable[[], Any]) -> None:
        """Whether the case holds; one that raises does not."""
        self.seen += 1
        self._solution.last = {}
        try:
            if holds():
                self.passed += 1
                return
        except Exception:
            pass
        self.fail()

    def fail(self) -> None:
        if self.first is None:
            self.first = {"case": self.seen, **self._solution.last}


def test(request: dict[str, Any], descriptor: int) -> dict[str, Any]:
    """Run the tests of a request. ``calls`` is 0 if it never came to the solution; ``broken`` says what is wrong with
    the tests themselves."""
    solution = Solution(descriptor)
    verdict = Verdict(solution)
    planned, broken, lost = len(request["cases"]), "", False
    try:
        solution.wait()
        _check_cases(request, solution, verdict)
        code, count = _counted(request["asserts"])
        planned += count
        _check_asserts(request, code, solution, verdict)
    except Lost:
        lost = True
        verdict.fail()
    except Exception as error:
        if solution.calls == 0:
            broken = f"{type(error).__name__}: {error}"[:_SHOWN]
        verdict.fail()
    return {
        "passed": verdict.passed,
        "total": max(planned, verdict.seen, verdict.passed + (verdict.first is not None)),
        "calls": solution.calls,
        "first": verdict.first,
        "broken": broken,
        "lost": lost,
    }


def _check_cases(request: dict[str, Any], solution: Solution, verdict: Verdict) -> None:
    for case in request["cases"]:
        function = solution.function(case.get("function", request["functions"][0]))
        arguments, expected = case["arguments"], case["expected"]
        verdict.case(lambda f=function, a=arguments, e=expected: same(f(*a), e, request["tolerance"]))  # type: ignore[misc]


def _check_asserts(request: dict[str, Any], code: Any, solution: Solution, verdict: Verdict) -> None:
    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(compile(request["setup"], "setup.py", "exec"), namespace)
    namespace.update({name: solution.function(name) for name in request["functions"]})
    namespace.update({"candidate": solution.function(request["functions"][0]), _CASE: verdict.case})
    exec(code, namespace)


_CASE = "__dovetail_case__"


class _Counter(ast.NodeTransformer):
    """Each assert becomes a case, so that one that fails does not hide the others. A constant asserts nothing."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if isinstance(node.test, ast.Constant) and node.test.value:
            return ast.copy_location(ast.Pass(), node)
        self.count += 1
        nobody = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        call = ast.Call(ast.Name(_CASE, ast.Load()), [ast.Lambda(nobody, node.test)], [])
        return ast.copy_location(ast.Expr(call), node)


def _counted(tests: str) -> tuple[Any, int]:
    counter = _Counter()
    tree = ast.fix_missing_locations(counter.visit(ast.parse(tests, "tests.py")))
    return compile(tree, "tests.py", "exec"), counter.count


def same(value: Any, expected: Any, tolerance: float) -> bool:
    """Equal, with numbers near enough. A list may be a tuple, because JSON has none; a bool is no number."""
    if type(expected) in (list, tuple):
        fits = type(value) in (list, tuple) and len(value) == len(expected)
        return fits and all(same(v, e, tolerance) for v, e in zip(value, expected))  # noqa: B905 - an old interpreter
    if type(expected) is dict:
        fits = type(value) is dict and value.keys() == expected.keys()
        return fits and all(same(value[key], expected[key], tolerance) for key in expected)
    if type(expected) in (int, float) and type(value) in (int, float):
        return value == expected or (
            float in (type(value), type(expected)) and math.isclose(value, expected, rel_tol=tolerance)
        )
    return type(value) is type(expected) and bool(value == expected)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number too long to be written
        text = f"a number of {value.bit_length()} bits" if type(value) is int else "a value with a very long number"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
