"""Emulation finds what a sequential run cannot; the kit's checks hold for kernels of every shape."""

import attrs
import pytest
import torch
from kernels_of_tests import Weigh, low_share, rows_of, weigh_inputs

from dovetail.errors import UserError
from dovetail.testing import check_kernel
from dovetail_kernels import wrap
from dovetail_kernels.emulation import FLAVOURS, Case, Fault, emulate
from dovetail_kernels.kernel import Call, Kernel
from dovetail_testing.kernel_mutants import mutants


def inputs(lengths, high, generator):
    return weigh_inputs(lengths, min(high, 8), int(torch.randint(1000, (), generator=generator)))


CHECKS = [("scores", c) for c in check_kernel(low_share, options={"bound": 1})]
CHECKS += [("everything", c) for c in check_kernel(Weigh().weigh, inputs=inputs)]


@pytest.mark.parametrize(("kernel", "check"), CHECKS, ids=str)
def test_kernels_of_every_shape_keep_what_kernels_promise(kernel, check):
    """One that scores, and one that reads rows, a mask and tables, and writes for each token."""
    check()


# The helper that n-gram kernels share, with what authors of parallel code get wrong.
BUGS = {
    "no barrier after clearing the table": ("table[i] = -1;\n  c.sync();", "table[i] = -1;"),
    "an insertion that is not atomic": (
        "other = c.cas(&table[slot], -1, mine);",
        "other = table[slot]; if (other < 0) table[slot] = mine;",
    ),
    "a barrier for some threads": ("table[i] = -1;\n  c.sync();", "table[i] = -1;\n  if (c.tid < total) c.sync();"),
    "idle threads return early": (
        "int* table = (int*)c.scratch;",
        "int* table = (int*)c.scratch; if (c.tid >= total) return 0;",
    ),
    "a sum without its last barrier": (
        "return c.sum(found);",
        "c.sync(); if (!c.tid) table[0] = 0; c.sync(); c.add(&table[0], found); c.sync(); return table[0];",
    ),
    "a forgotten sum": ("return c.sum(found);", "c.sync(); return found;"),
    "a table larger than the scratch": ("rk_pow2(2 * total)", "rk_pow2(4 * total)"),
    "a table that is not cleared": ("for (int i = c.tid; i < size; i += c.nth) table[i] = -1;", ""),
    "a read beyond the row": ("i < total; i += c.nth) {\n    u32", "i < total + 1; i += c.nth) {\n    u32"),
}
DISTINCT = """
RK_FN float distinct(Ctx& c, const int* completions, int len, int n) {
  float once = rk_distinct(c, completions, len, n);
  return once + rk_distinct(c, completions, len, n + 1);
}
"""


def reference(completions, *, n=2):
    """How many different n-grams and (n+1)-grams."""
    rows = completions.tolist()
    counts = [sum(len({tuple(r[i : i + k]) for i in range(len(r) - k + 1)}) for k in (n, n + 1)) for r in rows]
    return torch.tensor(counts, dtype=torch.float32)


@pytest.fixture
def cases(tmp_path):
    """Calls of a kernel on rd_distinct, with as much scratch as it says it needs, in several schedules."""
    from dovetail_kernels import distinct_scratch

    (tmp_path / "distinct.cu").write_text(DISTINCT)
    kernel = Kernel(reference, tmp_path / "distinct.cu", distinct_scratch)
    calls = [Call.bind(kernel, rows_of(lengths, high)) for lengths, high in (((0, 1, 3, 21), 3), ((33, 16), 40))]
    return [Case(call, threads, seed) for call in calls for threads, seed in ((1, 0), (7, 1), (7, 2), (32, 3))]


def found(cases, flavour: str) -> str:
    """What a flavour finds: a fault, a wrong number, or nothing."""
    try:
        results = emulate([cases[0].call.kernel.source], 0, flavour, cases, limit=5)
    except Fault as fault:
        return str(fault)
    right = all(torch.equal(got[0], case.call.refer()) for case, got in zip(cases, results, strict=True))
    return "" if right else "wrong"


def test_the_helper_is_right(cases):
    """In every flavour."""
    assert {flavour: found(cases, flavour) for flavour in FLAVOURS} == dict.fromkeys(FLAVOURS, "")


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_each_seeded_bug_of_the_helper_is_caught(bug, cases, monkeypatch):
    """By the fibers under sanitizers, or by the threads."""
    old, new = BUGS[bug]
    text = wrap.header()
    assert old in text
    monkeypatch.setattr("dovetail_kernels.emulation.header", lambda: text.replace(old, new))
    assert found(cases, "fibers") or found(cases[:3], "threads")


def test_a_divergent_barrier_is_told_by_its_line(cases, monkeypatch):
    """The line of the kernel's own file."""
    kernel = cases[0].call.kernel
    text = kernel.source.text.replace("  float once", "  if (c.tid == 0) c.sync();\n  float once")
    with pytest.raises(Fault, match=r"divergent barrier.*line 3\b"):
        emulate([attrs.evolve(kernel.source, text=text)], 0, "fibers", cases)


def test_a_kernel_without_a_baseline_or_a_function_without_a_kernel_is_refused(tmp_path):
    """The error says what to write."""
    bare = attrs.evolve(low_share.kernel, baseline=None)

    def function():
        """Carries the kernel."""

    function.kernel = bare
    check = next(c for c in check_kernel(function, options={"bound": 1}) if "plain Python" in c.claim)
    with pytest.raises(AssertionError, match="pass kernel_op a baseline"):
        check()
    with pytest.raises(UserError, match="there is no kernel in"):
        check_kernel(reference)


def test_mutants_are_one_bug_each_and_leave_comments_alone():
    """The line of each is told."""
    text = "// c.sync()\nint x = c.sum(f(a, b)); c.sync();\nfor (int i = c.tid; i < len; i += c.nth) {}\n"
    made = {str(mutant): mutant.text for mutant in mutants(text)}
    assert made["line 2: a thread keeps its share of a sum"] == text.replace("c.sum(f(a, b))", "(f(a, b))")
    assert [name for name in made if name.startswith("line 1")] == []
    assert len(made) == 6
