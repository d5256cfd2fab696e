"""From row functions to one translation unit: fusing kernels is putting several of them into one wrapper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from dovetail_kernels.source import RowFunction

HEADER = Path(__file__).with_name("row.h")

_ROW = """
RK_FN void rk_row(Ctx& c, const long long* offsets, long long rows, const float* weights, float* parts, float* total{declared}) {{
  long long row = c.row, begin = offsets[row];
  int len = (int)(offsets[row + 1] - begin);
  float sum = 0.f;
{calls}
  if (c.tid == 0) total[row] = sum;
}}
"""

_MAINS = """
#if defined(RK_CUDA)
extern "C" __global__ void __launch_bounds__(256) rk_launch({signature}, long long scratch_bytes, char* workspace) {{
  extern __shared__ __align__(16) char rk_shared[];
  __shared__ u64 rk_reduced[32];
  Ctx c{{(int)threadIdx.x, (int)blockDim.x, 0, workspace ? workspace + blockIdx.x * scratch_bytes : rk_shared, rk_reduced}};
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {{
    c.row = row;
    rk_row(c, {passed});
    __syncthreads();
  }}
}}
#else
// The length of the longest row, or -1 if the offsets do not rise from 0 to the number of tokens.
extern "C" long long rk_longest(const long long* offsets, long long rows, long long tokens) {{
  u64 longest = 0;
  for (long long row = 0; row < rows; row++) {{
    u64 len = (u64)offsets[row + 1] - (u64)offsets[row];  // without its sign, what is below 0 is longer than all tokens
    if (len > longest) longest = len;
  }}
  return offsets[0] == 0 && offsets[rows] == tokens && longest <= (u64)tokens ? (long long)longest : -1;
}}
// Token ids of 64 bits as such of 32; 1 if one is not between 0 and the limit.
extern "C" int rk_narrow(const long long* ids, int* narrow, long long count, long long limit) {{
  int wrong = 0;
  for (long long i = 0; i < count; i++) {{
    wrong |= (u64)ids[i] >= (u64)limit;
    narrow[i] = (int)ids[i];
  }}
  return wrong;
}}
// 0, or 1 if there is no memory for the scratch of `threads` threads.
extern "C" int rk_launch({signature}, long long scratch_bytes, int threads) {{
  std::atomic<long long> next{{0}};
  std::atomic<int> failed{{0}};
  auto work = [&] {{
    char* scratch = (char*)malloc(scratch_bytes ? scratch_bytes : 1);
    if (!scratch) {{ failed = 1; return; }}
    Ctx c{{0, scratch}};
    for (long long row; (row = next.fetch_add(1)) < rows;) {{ c.row = row; rk_row(c, {passed}); }}
    free(scratch);
  }};
  std::vector<std::thread> others;
  try {{
    for (int i = 1; i < threads; i++) others.emplace_back(work);
  }} catch (...) {{}}  // the system gives no more threads: those that there are do the work
  work();
  for (auto& thread : others) thread.join();
  return failed;
}}
#endif
"""


_SIGNATURE = "const long long* offsets, long long rows, const float* weights, float* parts, float* total"


@attrs.frozen
class Wrapped:
    """C++ pieces of one launch."""

    sources: str  #: the row functions in namespaces of their own
    row: str  #: ``rk_row``, which calls them all for one row
    signature: str  #: parameters of a launch
    passed: str  #: the same, as arguments


def wrap(functions: Sequence[RowFunction]) -> Wrapped:
    """The pieces from which launches are made. ``#line`` lets compilers name the plugin's own file."""
    names, declared, calls = [], [], []
    for index, function in enumerate(functions):
        own = [f"k{index}_{parameter.name}" for parameter in function.parameters]
        declared += [f", {p.declaration} {name}" for p, name in zip(function.parameters, own, strict=True)]
        names += own
        calls.append(_call(function, index))
    sources = [f'namespace k{n} {{\n#line 1 "{f.path}"\n{f.text}\n}}' for n, f in enumerate(functions)]
    row = _ROW.format(declared="".join(declared), calls="\n".join(calls))
    passed = "".join(["offsets, rows, weights, parts, total", *(f", {name}" for name in names)])
    return Wrapped("\n".join(sources), row, _SIGNATURE + "".join(declared), passed)


def header() -> str:
    return f'#line 1 "{HEADER}"\n{HEADER.read_text(encoding="utf-8")}'


def translation_unit(functions: Sequence[RowFunction]) -> str:
    """The C++ text of one launch, for CUDA and for the CPU."""
    wrapped = wrap(functions)
    mains = _MAINS.format(signature=wrapped.signature, passed=wrapped.passed)
    return "\n".join([header(), wrapped.sources, '#line 1 "the generated wrapper"', wrapped.row, mains])


def _call(function: RowFunction, index: int) -> str:
    given = "".join(f", {argument}" for argument in _arguments(function, index))
    call = f"k{index}::{function.name}(c{given})"
    if not function.scores:
        return f"  {call};\n  c.sync();"
    return (
        f"  {{ float score = {call}; if (c.tid == 0) parts[{index} * rows + row] = score; "
        f"sum += (weights ? weights[{index}] : 1.f) * score; c.sync(); }}"
    )


def _arguments(function: RowFunction, index: int) -> Iterator[str]:
    """As the row function's author ordered them: rows, the length, the rest."""
    rows = [p for p in function.parameters if p.role in ("row", "out")]
    yield from (f"k{index}_{parameter.name} + begin" for parameter in rows)
    yield "len"
    yield from (f"k{index}_{parameter.name}" for parameter in function.parameters if parameter not in rows)
