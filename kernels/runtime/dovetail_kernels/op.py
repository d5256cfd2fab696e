"""``@dt.kernel_op``: a row function in a file, its torch reference in the body."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dovetail.parts import HOOKS_BY_KIND, Part
from dovetail_kernels.kernel import Call, Kernel


def kernel_op(
    *,
    path: str,
    scratch: Callable[[int], int] | None = None,
    baseline: Callable[..., float] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a kernel of a function or method, whose body says in torch what the row function computes.

    The row function's parameters are found by name: among the arguments, the options (keyword-only parameters, or
    attributes of a method's object), and what the object's method ``tables()`` gives.

    Args:
        path: Of the .cu file, from the module's folder; the row function bears its name.
        scratch: Bytes of working memory for a row, by its length in tokens.
        baseline: The same in plain Python for one row, as lists: what tests and benchmarks compare with.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel = Kernel(function, Path(function.__code__.co_filename).parent / path, scratch, baseline)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            from dovetail.graph.edit import Handle

            if any(isinstance(value, Handle) for value in (*args, *kwargs.values())):
                return _node(kernel, call)(*args, **kwargs)
            from dovetail_kernels.launch import launch

            return launch([Call.bind(kernel, *args, **kwargs)]).results[0]

        call.kernel = kernel  # type: ignore[attr-defined]
        call.passes = ("fuse",)  # type: ignore[attr-defined]
        call.__signature__ = kernel.signature  # type: ignore[attr-defined]
        return call

    return decorate


def _node(kernel: Kernel, call: Callable[..., Any]) -> Callable[..., Any]:
    """The operation of a recipe: rollouts stand for their rows of the parameter's name."""
    from dovetail.graph.build import op
    from dovetail.rollouts import Rollouts

    @functools.wraps(call)
    def function(**given: Any) -> Any:
        rows = {name: getattr(v, name) if isinstance(v, Rollouts) else v for name, v in given.items()}
        return call(**rows)

    parameters = [p.replace(annotation=p.empty) for p in kernel.signature.parameters.values()]
    returns = "Scores" if kernel.source.scores else "Ragged"
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return op(function)


def find_kernel(given: Part | Callable[..., Any] | None) -> tuple[Kernel | None, Any, Mapping[str, Any]]:
    """The kernel behind a part, or behind a function under ``@dt.kernel_op``; its object, if it is a method; its options."""
    hook: Any = getattr(given.instance, HOOKS_BY_KIND[given.kind][0]) if isinstance(given, Part) else given
    options = hook.keywords if isinstance(hook, functools.partial) else {}
    function = hook.func if isinstance(hook, functools.partial) else hook
    return getattr(function, "kernel", None), getattr(function, "__self__", None), options
