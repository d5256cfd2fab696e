"""The quickstart is two ordinary runs and a report."""

import pytest

from dovetail_quickstart.command import stages
from dovetail_quickstart.report import print_report
from dovetail_trainer.cli.main import main


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    """Nothing is overwritten."""
    (tmp_path / "something").write_text("")
    assert main(["quickstart", "--folder", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_it_learns_to_add(tmp_path, capsys):
    """The warm-up leaves it at 0.3 to 0.6, GRPO lifts it past 0.9; table, picture and samples are there."""
    warmup, grpo = stages(tmp_path / "run", seed=0, quiet=True)
    assert 0.3 <= warmup.after <= 0.6
    assert grpo.before == pytest.approx(warmup.after, abs=1e-6)
    assert grpo.after >= 0.9
    print_report(tmp_path / "run", [warmup, grpo])
    shown = capsys.readouterr().out
    assert "held-out problems solved" in shown
    assert "expected" in shown
    assert "dovetail train" in shown
    assert (tmp_path / "run" / "learning-curve.png").stat().st_size > 5000
