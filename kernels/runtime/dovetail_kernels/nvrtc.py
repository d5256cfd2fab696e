"""Compiling for CUDA without a GPU: NVIDIA's run-time compiler by its C interface, and what it says of registers."""

from __future__ import annotations

import ctypes
import functools
import re
from importlib.metadata import distributions
from pathlib import Path

import attrs

from dovetail.errors import UserError
from dovetail_kernels.build import compile_error

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


@attrs.frozen
class Usage:
    """What a launch takes of a processor."""

    registers: int  #: of each thread
    spills: int  #: bytes that did not fit them


@functools.cache
def library() -> ctypes.CDLL:
    """NVRTC of the installed wheel, or of the system; a UserError tells how to get it."""
    for distribution in distributions():
        if (distribution.name or "").startswith("nvidia-cuda-nvrtc"):
            for file in distribution.files or ():
                if re.fullmatch(r"libnvrtc\.so\.\d+|nvrtc64_\d+_0\.dll", file.name):
                    return _load(str(Path(str(distribution.locate_file(file)))))
    try:
        return _load("libnvrtc.so")
    except OSError as error:
        raise UserError("NVRTC is not installed", hint="pip install nvidia-cuda-nvrtc-cu12") from error


def _load(name: str) -> ctypes.CDLL:
    nvrtc = ctypes.CDLL(name)
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def supports(architecture: str) -> bool:
    """Whether this NVRTC knows an architecture; sm_100 came with CUDA 12.8."""
    count = ctypes.c_int()
    library().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    library().nvrtcGetSupportedArchs(known)
    return int(architecture.removeprefix("sm_")) in list(known)


def compile_for(architecture: str, text: str) -> Usage:
    """Compile a translation unit.

    Raises:
        KernelError: It does not compile; with the plugin's file and line.
        UserError: NVRTC is not installed, or does not know the architecture.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"launch.cu", 0, None, None)
    try:
        options = [f"-arch={architecture}", "--std=c++17", "--ptxas-options=-v"]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), given)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        told = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, told)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = told.value.decode(errors="replace")
    if status:
        problem = nvrtc.nvrtcGetErrorString(status).decode()
        raise compile_error(log) or UserError(f"NVRTC failed for {architecture}: {problem}: {log.strip()[-400:]}")
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
    if not registers:
        raise UserError(f"NVRTC told no registers for {architecture}: {log.strip()[-400:]}")
    return Usage(max(registers), sum(spills))
