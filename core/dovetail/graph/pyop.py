"""``@dt.op``: a plain or async Python function as an operation; its type hints are its ports."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dovetail.errors import RecipeError
from dovetail.graph.edit import Handle, editor
from dovetail.graph.node import Op
from dovetail.graph.types import ANY, LOSS, PER_TOKEN, ROLLOUTS, SCALAR, PortType

_BY_NAME = {"Ragged": PER_TOKEN, "Rollouts": ROLLOUTS, "Scores": SCALAR, "LossTerms": LOSS}


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation of a function.

    Parameters without default that are given nodes become ports, all else options. ``Ragged``, ``Rollouts``,
    ``Scores`` and ``LossTerms`` in the hints give typed ports, anything else fits every port. A dict annotation
    ``-> {"rewards": Tensor}`` names several outputs. Called with real values it is the function itself. Async
    functions run beside the training thread and without gradients.
    """
    signature = inspect.signature(function)
    outputs = _outputs(signature.return_annotation)
    is_async = inspect.iscoroutinefunction(function)

    @functools.wraps(function)
    def call(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        if not any(isinstance(value, Handle) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise RecipeError(f"op {function.__name__!r}: {error}") from None
        wired = {key: value for key, value in given.items() if isinstance(value, Handle)}
        options = {key: value for key, value in given.items() if key not in wired}
        ports = {key: _port_type(signature.parameters[key].annotation) for key in wired}
        operation = Op(
            function.__name__,
            ports,
            outputs,
            function=function,
            place="collect" if is_async else "either",
            offload=is_async,
            pure=False,
        )
        return editor(f"op {function.__name__}").add(operation, wired, options, name)

    return call


def _outputs(annotation: Any) -> Mapping[str, PortType]:
    if isinstance(annotation, Mapping):
        return {name: _port_type(kind) for name, kind in annotation.items()}
    if isinstance(annotation, str) and annotation.startswith("{"):
        entries = [entry.partition(":") for entry in annotation.strip("{}").split(",")]
        return {name.strip().strip("'\""): _port_type(kind.strip()) for name, _, kind in entries}
    return {"out": _port_type(annotation)}


def _port_type(annotation: Any) -> PortType:
    if isinstance(annotation, PortType):
        return annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return _BY_NAME.get(name.rpartition(".")[2], ANY)
