"""From row functions to one translation unit: fusing kernels is putting several of them into one wrapper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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
#elif defined(RK_FIBERS)
extern "C" void rk_emulate({signature}, long long scratch_bytes, int nth, int seed) {{
  std::vector<u64> reduced(nth);
  Fibers fibers;
  for (long long row = 0; row < rows; row++) {{
    char* scratch = (char*)malloc(scratch_bytes);
    memset(scratch, 0xCD, scratch_bytes);
    fibers.run(nth, row, scratch, reduced.data(), seed * 7919 + (u32)row, [&](Ctx& c) {{ rk_row(c, {passed}); }});
    free(scratch);
  }}
}}
#elif defined(RK_THREADS)
extern "C" void rk_emulate({signature}, long long scratch_bytes, int nth, int) {{
  std::vector<u64> reduced(nth);
  for (long long row = 0; row < rows; row++) {{
    char* scratch = (char*)malloc(scratch_bytes);
    std::barrier<> barrier(nth);
    std::vector<std::thread> threads;
    for (int i = 0; i < nth; i++)
      threads.emplace_back([&, i] {{ Ctx c{{i, nth, row, scratch, reduced.data(), &barrier}}; rk_row(c, {passed}); }});
    for (auto& thread : threads) thread.join();
    free(scratch);
  }}
}}
#else
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
  for (int i = 1; i < threads; i++) others.emplace_back(work);
  work();
  for (auto& thread : others) thread.join();
  return failed;
}}
#endif
"""


def translation_unit(functions: Sequence[RowFunction]) -> str:
    """The C++ text of one launch. ``#line`` lets compilers name the plugin's own file."""
    names, declared, calls = [], [], []
    for index, function in enumerate(functions):
        own = [f"k{index}_{parameter.name}" for parameter in function.parameters]
        declared += [f", {p.declaration} {name}" for p, name in zip(function.parameters, own, strict=True)]
        names += own
        calls.append(_call(function, index))
    signature = "const long long* offsets, long long rows, const float* weights, float* parts, float* total"
    passed = "".join(["offsets, rows, weights, parts, total", *(f", {name}" for name in names)])
    sources = [
        f'namespace k{index} {{\n#line 1 "{function.path}"\n{function.text}\n}}'
        for index, function in enumerate(functions)
    ]
    return "\n".join(
        [
            f'#line 1 "{HEADER}"\n{HEADER.read_text(encoding="utf-8")}',
            *sources,
            '#line 1 "the generated wrapper"',
            _ROW.format(declared="".join(declared), calls="\n".join(calls)),
            _MAINS.format(signature=signature + "".join(declared), passed=passed),
        ]
    )


def _call(function: RowFunction, index: int) -> str:
    given = "".join(f", {argument}" for argument in _arguments(function, index))
    call = f"k{index}::{function.name}(c{given})"
    if not function.scores:
        return f"  {call};\n  c.sync();"
    return (
        f"  {{ float score = {call}; if (c.tid == 0) parts[{index} * rows + row] = score; "
        f"sum += weights[{index}] * score; c.sync(); }}"
    )


def _arguments(function: RowFunction, index: int) -> Iterator[str]:
    """As the row function's author ordered them: rows, the length, the rest."""
    rows = [p for p in function.parameters if p.role in ("row", "out")]
    yield from (f"k{index}_{parameter.name} + begin" for parameter in rows)
    yield "len"
    yield from (f"k{index}_{parameter.name}" for parameter in function.parameters if parameter not in rows)
