"""Which back end runs a program: CUDA tensors CuPy's, CPU tensors the compiler's, else torch."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import threading

import torch

from dovetail.errors import UserError
from dovetail_kernels.build import BuildUnavailable
from dovetail_kernels.program import Program

CHOICES = ("cuda", "cpu", "reference")
log = logging.getLogger("dovetail.kernels")


def choose(program: Program, device: torch.device, demanded: str | None = None) -> str:
    """``cuda``, ``cpu`` or ``reference``: as is demanded, here or by ``DOVETAIL_KERNELS``, else what device and machine give.

    Raises:
        UserError: What is demanded is not to be had here, with the reason.
        KernelError: The kernel does not compile.
    """
    demanded = demanded or os.environ.get("DOVETAIL_KERNELS") or None
    if demanded not in (None, *CHOICES):
        raise UserError(f"DOVETAIL_KERNELS is {demanded!r}", hint=f"one of {', '.join(CHOICES)}, or unset it")
    with _one_at_a_time:
        return _chosen(program, device.type, demanded)


_one_at_a_time = threading.Lock()  # rewards are scored in threads; each kernel is built once, and told of once


@functools.cache
def _chosen(program: Program, device: str, demanded: str | None) -> str:
    if demanded == "reference":
        return "reference"
    wanted = demanded or {"cuda": "cuda", "cpu": "cpu"}.get(device)
    why = f"there is no back end for {device} tensors" if wanted is None else problem(program, wanted, device)
    if why is None:
        log.info("kernel %s: %s", program.name, wanted)
        return str(wanted)
    if demanded:
        hint = "unset DOVETAIL_KERNELS, or set it to reference"
        raise UserError(f"kernels cannot run on {demanded!r}: {why}", hint=hint)
    log.warning("kernel %s: torch computes it, more slowly, because %s", program.name, why)
    return "reference"


def problem(program: Program, wanted: str, device: str) -> str | None:
    """Why a back end cannot run the program; None if it can, and is then ready."""
    if wanted == "cpu":
        if device != "cpu":
            return f"the tensors are on {device}"
        from dovetail_kernels.cpu import loaded

        try:
            loaded(program)
        except (BuildUnavailable, OSError) as error:
            return str(getattr(error, "what", error))
        return None
    if why := cupy_problem():
        return why
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    from dovetail_kernels import cuda

    try:
        cuda.loaded(program, torch.cuda.current_device())
    except RuntimeError as error:  # CuPy's own: a driver that is older than the toolkit, for one
        return f"CuPy cannot load it: {error}"
    return None


@functools.cache
def cupy_problem() -> str | None:
    """Why CuPy cannot launch here; None if it can."""
    from importlib.metadata import distributions

    builds = sorted({d.name for d in distributions() if d.name and d.name.lower().startswith("cupy-cuda")})
    if len(builds) > 1:
        return f"{' and '.join(builds)} exclude each other; pip uninstall one"
    if importlib.util.find_spec("cupy") is None:
        return 'CuPy is not installed; pip install "dovetail[cuda12]" or "dovetail[cuda13]"'
    try:
        import cupy

        # Its is_available() keeps the reason to itself: no driver, or one that is older than its toolkit.
        return None if cupy.cuda.runtime.getDeviceCount() else "CuPy finds no GPU"
    except (ImportError, RuntimeError) as error:
        return f"CuPy finds no CUDA driver that it can use: {error}"
