"""The conformance kit, as parts of each kind meet it, and as an installation without it does."""

from __future__ import annotations

import importlib
import sys

import pytest
from hide_siblings import Refuser

from dovetail import catalog
from dovetail.errors import UserError
from dovetail.testing import part_checks
from dovetail_trainer.cli.main import main


@pytest.mark.parametrize(
    ("kind", "name", "facts"),
    [
        ("rewards", "length", {"bounds": (-1, 0)}),
        ("advantages", "group", {}),
        ("losses", "clipped", {}),
        ("environments", "math", {"gold": lambda task: f"\\boxed{{{task.answer}}}"}),
        ("generators", "native", {}),
        ("loggers", "jsonl", {}),
        ("recipes", "grpo", {}),
    ],
)
def test_our_own_parts_keep_every_promise(kind, name, facts):
    """A part of each kind."""
    for check in part_checks(kind, name, **facts):
        check()


def test_without_the_kit_its_name_tells_what_to_install(monkeypatch):
    """The core keeps the promised name, not the kit."""
    for module in [name for name in sys.modules if name.startswith(("dovetail.testing", "dovetail_testing"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Refuser(["dovetail-testing"]), *sys.meta_path])
    with pytest.raises(UserError, match=r'pip install "dovetail\[testing\]"'):
        _ = importlib.import_module("dovetail.testing").part_checks


def test_without_the_benchmarks_their_name_tells_what_to_install(monkeypatch):
    """Likewise."""
    for module in [name for name in sys.modules if name.startswith(("dovetail.benchmark", "dovetail_benchmark"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Refuser(["dovetail-benchmark"]), *sys.meta_path])
    with pytest.raises(UserError, match=r'pip install "dovetail\[benchmark\]"'):
        _ = importlib.import_module("dovetail.benchmark").TrainingMonitor


def test_without_the_kit_dovetail_new_tells_what_to_install(monkeypatch, capsys):
    """The command is the kit's."""
    monkeypatch.setattr(catalog, "entries", lambda: ())
    assert main(["new", "reward", "brevity"]) == 2
    assert 'pip install "dovetail[testing]"' in capsys.readouterr().err
