"""Running row functions as a GPU would, without one, and watched: under sanitizers, as fibers and as threads.

Several variants of a row function, the original and mutants of it, are compiled into one program, and each runs in a
process of its own.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from dovetail_kernels.build import build
from dovetail_kernels.kernel import Call
from dovetail_kernels.launch import inputs_of, rows_of
from dovetail_kernels.program import DTYPES
from dovetail_kernels.source import Parameter, RowFunction
from dovetail_kernels.wrap import header, wrap

#: What each flavour is built with. Fibers also run under the sanitizers of memory and of undefined behaviour.
FLAVOURS: Mapping[str, tuple[str, ...]] = {
    "fibers": (
        "-DRK_FIBERS", "-O1", "-g1", "-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ),
    "threads": ("-DRK_THREADS", "-O1", "-g1", "-std=c++20", "-pthread", "-fsanitize=thread"),
}  # fmt: skip

_COMMON = """
#if defined(RK_FIBERS)
template <class F> void rk_rows(long long rows, long long bytes, int nth, int seed, F row_function) {
  u64* reduced = (u64*)malloc(nth * sizeof(u64));
  Fibers fibers;
  for (long long row = 0; row < rows; row++) {
    char* scratch = (char*)malloc(bytes);
    memset(scratch, 0xCD + 37 * seed, bytes);
    fibers.run(nth, row, scratch, reduced, seed * 7919 + (u32)row, row_function);
    free(scratch);
  }
  free(reduced);
}
#else
template <class F> void rk_rows(long long rows, long long bytes, int nth, int seed, F row_function) {
  u64* reduced = (u64*)malloc(nth * sizeof(u64));
  for (long long row = 0; row < rows; row++) {
    char* scratch = (char*)malloc(bytes);
    memset(scratch, 0xCD + 37 * seed, bytes);
    std::barrier<> barrier(nth);
    std::vector<std::thread> threads;
    for (int i = 0; i < nth; i++)
      threads.emplace_back([&, i] { Ctx c{i, nth, row, scratch, reduced, &barrier}; row_function(c); });
    for (auto& thread : threads) thread.join();
    free(scratch);
  }
  free(reduced);
}
#endif
static long long rk_whole() { long long v; if (fread(&v, 8, 1, stdin) != 1) exit(74); return v; }
static double rk_number() { double v; if (fread(&v, 8, 1, stdin) != 1) exit(74); return v; }
// Exactly as many bytes as are given, so that one too far is noticed.
static void* rk_block() {
  long long bytes = rk_whole();
  void* block = malloc(bytes);
  if (bytes && fread(block, 1, bytes, stdin) != (size_t)bytes) exit(74);
  return block;
}
static void rk_give(const void* block, long long bytes) { if (bytes) fwrite(block, 1, bytes, stdout); }
"""

_VARIANT = """
namespace variant{index} {{
{sources}
#line 1 "the generated wrapper"
{row}
static void run() {{
  long long rows = rk_whole(), tokens = rk_whole(), bytes = rk_whole(), nth = rk_whole(), seed = rk_whole();
  const long long* offsets = (const long long*)rk_block();
  const float* weights = nullptr;
  float* parts = (float*)malloc(rows * 4);
  float* total = (float*)malloc(rows * 4);
{read}
  rk_rows(rows, bytes, (int)nth, (int)seed, [&](Ctx& c) {{ rk_row(c, {passed}); }});
  rk_give(parts, rows * 4);
{give}
  free((void*)offsets); free(parts); free(total);{free}
}}
}}
"""

_MAIN = """
int main(int, char** argv) {{
  void (*variants[])() = {{{runs}}};
  int variant = atoi(argv[1]);
  for (long long cases = rk_whole(); cases > 0; cases--) {{ variants[variant](); fflush(stdout); }}
  return 0;
}}
"""


class Fault(Exception):
    """What an emulation found: ``kind`` is one of memory, barrier, race, hang, crash."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@attrs.frozen(eq=False)
class Case:
    """A call, and how many threads share a row in which schedule."""

    call: Call
    threads: int
    seed: int = 0


def program_text(variants: Sequence[RowFunction]) -> str:
    """The C++ text of one program with all variants, which must have the same parameters."""
    pieces = [header(), _COMMON]
    for index, function in enumerate(variants):
        wrapped = wrap([function])
        pointers = [p for p in function.parameters if p.role != "number"]
        pieces.append(
            _VARIANT.format(
                index=index, sources=wrapped.sources, row=wrapped.row, passed=wrapped.passed,
                read="\n".join(_read(parameter) for parameter in function.parameters),
                give="\n".join(f"  rk_give(k0_{p.name}, tokens * sizeof({p.ctype}));" for p in function.written),
                free="".join(f" free((void*)k0_{p.name});" for p in pointers),
            )
        )  # fmt: skip
    pieces.append(_MAIN.format(runs=", ".join(f"variant{index}::run" for index in range(len(variants)))))
    return "\n".join(pieces)


def _read(parameter: Parameter) -> str:
    if parameter.role == "number":
        return f"  {parameter.ctype} k0_{parameter.name} = ({parameter.ctype})rk_number();"
    if parameter.role == "out":
        return f"  {parameter.ctype}* k0_{parameter.name} = ({parameter.ctype}*)malloc(tokens * sizeof({parameter.ctype}));"
    return f"  {parameter.declaration} k0_{parameter.name} = ({parameter.declaration})rk_block();"


def emulate(
    variants: Sequence[RowFunction], which: int, flavour: str, cases: Sequence[Case], *, limit: float = 60
) -> list[list[Tensor]]:
    """Run a variant: for each case the scores ``[B]``, if the row function gives any, and what it writes.

    Raises:
        Fault: What a sanitizer or the scheduler found, or that it takes longer than ``limit`` seconds.
        KernelError: A variant does not compile.
        BuildUnavailable: There is no compiler, or it lacks the sanitizers.
    """
    program = build(program_text(variants), FLAVOURS[flavour])
    given = b"".join([struct.pack("<q", len(cases)), *map(_packed, cases)])
    with tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        command = [*_steady(), str(program), str(which)]
        try:
            finished = subprocess.run(command, stdin=stdin, capture_output=True, timeout=limit, env=_environment())
        except subprocess.TimeoutExpired:
            raise Fault("hang", f"no end within {limit:g} s") from None
    if finished.returncode:
        raise _fault(finished.stderr.decode(errors="replace"), finished.returncode)
    return _results(cases, finished.stdout)


@functools.cache
def _steady() -> tuple[str, ...]:
    """What starts a program without random addresses, whose range older thread sanitizers cannot bear, if it may."""
    command = ("setarch", platform.machine(), "-R")
    may = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if may else ()


def _environment() -> dict[str, str]:
    options = {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:exitcode=65",
        "UBSAN_OPTIONS": "print_stacktrace=0:exitcode=65",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
    }
    return {**os.environ, **options}


def _packed(case: Case) -> bytes:
    rows = rows_of([case.call])
    tensors, numbers = inputs_of([case.call], rows)
    longest = int(rows.lengths.max()) if len(rows) else 0
    scratch = -(-case.call.kernel.scratch_bytes(longest) // 16) * 16
    pieces = [struct.pack("<5q", len(rows), len(rows.values), scratch, case.threads, case.seed), _block(rows.offsets)]
    given, told = iter(tensors), iter(numbers)
    for parameter in case.call.kernel.source.parameters:
        if parameter.role == "number":
            pieces.append(struct.pack("<d", next(told)))
        elif parameter.role != "out":
            pieces.append(_block(next(given)))
    return b"".join(pieces)


def _block(tensor: Tensor) -> bytes:
    content = tensor.numpy().tobytes()
    return struct.pack("<q", len(content)) + content


def _results(cases: Sequence[Case], told: bytes) -> list[list[Tensor]]:
    results, place = [], 0
    for case in cases:
        rows, source = rows_of([case.call]), case.call.kernel.source
        wanted = [(torch.float32, len(rows)), *((DTYPES[p.ctype], len(rows.values)) for p in source.written)]
        read = []
        for dtype, count in wanted:
            size = count * dtype.itemsize
            read.append(torch.frombuffer(bytearray(told[place : place + size]) or bytearray(8), dtype=dtype)[:count])
            place += size
        results.append(read if source.scores else read[1:])
    return results


_SIGNS = {
    "barrier": r"divergent barrier: .*",
    "memory": r"(?:ERROR: AddressSanitizer: .*|.*runtime error: .*)",
    "race": r"WARNING: ThreadSanitizer: .*",
}


def _fault(told: str, code: int) -> Fault:
    for kind, sign in _SIGNS.items():
        if found := re.search(sign, told):
            place = re.search(r"(\S+\.cu:\d+)", told[found.start() :])
            return Fault(kind, found[0] + (f" at {place[1]}" if place and place[1] not in found[0] else ""))
    return Fault("crash", f"exit code {code}: {told.strip()[-400:]}")
