"""The page that counts lines of code counts right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dovetail as dt

ROOT = Path(__file__).parents[2]


@pytest.fixture
def counting(monkeypatch):
    """The script that writes the page."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import lines_of_code

    yield lines_of_code
    del sys.modules["lines_of_code"]


def test_the_page_is_what_is_counted(counting):
    """Our lines, and those of the installed TRL."""
    page = counting.PAGE.read_text(encoding="utf-8")
    assert counting.written() == page, "run python docs/_ext/lines_of_code.py"


def test_a_derived_algorithm_is_its_own_lines_alone(counting):
    """Its function, and nothing of its base; a part of its own counts with its file."""
    assert counting.own_lines(dt.recipes["dr-grpo"]) < 40
    file = ROOT / "plugins/algorithms/cispo/dovetail_cispo/loss.py"
    assert counting.own_lines(dt.recipes["cispo"]) > len(file.read_text().splitlines())
