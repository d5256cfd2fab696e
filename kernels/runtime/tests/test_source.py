"""A row function's signature says what it reads, writes and is told."""

import re

import pytest
from kernels_of_tests import Weigh

from dovetail_kernels.build import build
from dovetail_kernels.source import KernelError, RowFunction
from dovetail_kernels.wrap import translation_unit


def test_parameters_have_roles_by_their_place():
    """Rows before the length, tables and numbers behind it."""
    roles = {parameter.name: parameter.role for parameter in Weigh.weigh.kernel.source.parameters}
    assert roles == {
        "tokens": "row", "values": "row", "mask": "row", "weighed": "out", "by_token": "table", "by_row": "table",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("RK_FN float other(Ctx& c, const int* t, int len) {}", "no row function is called 'mine'"),
        ("// RK_FN float mine(Ctx& c, const int* t, int len) {}", "no row function is called 'mine'"),
        ("\nRK_FN int mine(Ctx& c, const int* t, int len) {}", "must return float"),
        ("RK_FN float mine(Ctx& c, const int* t) {}", "needs the parameter `int len`"),
        ("RK_FN float mine(Ctx& c, const double* t, int len) {}", "cannot have the parameter `const double\\* t`"),
        ("RK_FN float mine(Ctx& c, int n, int len) {}", "cannot have the parameter `int n`"),
        ("RK_FN float mine(Ctx& c, const int* t, int len, float* out) {}", "cannot have the parameter `float\\* out`"),
    ],
)
def test_what_is_no_row_function_is_refused(tmp_path, text, problem):
    """The error names the file and the line."""
    path = tmp_path / "mine.cu"
    path.write_text(text)
    with pytest.raises(KernelError, match=problem) as caught:
        RowFunction.read(path)
    assert re.match(rf"{path}:[12]", caught.value.where[0])


def test_a_missing_file_is_refused(tmp_path):
    """The error names it."""
    with pytest.raises(KernelError, match=r"absent\.cu cannot be read"):
        RowFunction.read(tmp_path / "absent.cu")


def test_what_does_not_compile_is_told_by_the_plugins_own_file_and_line(tmp_path):
    """Not by a line of the text that was made of it."""
    path = tmp_path / "mine.cu"
    path.write_text("// a comment\nRK_FN float mine(Ctx& c, const int* t, int len) {\n  return t[0] + absent;\n}\n")
    with pytest.raises(KernelError, match=r"does not compile.*absent") as caught:
        build(translation_unit([RowFunction.read(path)]))
    assert caught.value.where == (f"{path}:3",)
