"""Whether a piece of a step can be captured, seen without a GPU: on fake tensors, which have shapes and no values."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dovetail


def obstacle(work: Callable[..., Any], *tensors: Tensor) -> str | None:
    """What keeps ``work`` from being captured: the operation and the line that called it; None if nothing does.

    A graph that is replayed holds the work of the device alone. So nothing may wait for a value (``.item()``, ``if``,
    ``int()``), and no shape may depend on one (a bool as index, ``unique``, ``nonzero``). A copy to the host is noticed
    where its values are looked at.

    Args:
        work: Is called under ``FakeTensorMode`` with fakes of ``tensors``; what it makes of them is fake too.
        tensors: Real ones. Others that it looks at, such as tables, count as constants.
    """
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            work(*(tensor.clone() for tensor in tensors))
    except DataDependentOutputException as error:
        return f"{error.func} waits for a value, at {_line(error)}"
    except DynamicOutputShapeException as error:
        return f"{error.func} makes a shape of values, at {_line(error)}"
    except Exception as error:  # whatever a part makes of tensors without values
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}, at {_line(error)}"
    return None


def _line(error: BaseException) -> str:
    """The innermost line that is neither torch's nor the core's, and so its author's."""
    others = [Path(str(module.__file__)).parent for module in (torch, dovetail)]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.line and not any(other in Path(f.filename).parents for other in others)]
    line = own[-1]  # generated methods have no line
    return f"{line.filename}:{line.lineno}"
