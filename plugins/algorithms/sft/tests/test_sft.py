"""The loss and the recipe."""

import pytest

import dovetail as dt
from dovetail.testing import part_checks, tiny_agent
from dovetail.training.data import encode_rows

CHECKS = [
    *(check for name in ("token_mean", "sequence_mean", "sequence_sum_mean")
      for check in part_checks("losses", "nll", options={"reduction": name})),
    *part_checks("recipes", "sft"),
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


def test_it_learns_a_row_by_heart():
    """The loss of one row falls towards 0, and its prompt carries none."""
    agent = tiny_agent(optimizer=dt.OptimizerSettings(lr=1e-2), hidden=32)
    agent.trainable = True
    rows = encode_rows([{"prompt": "2+2=", "completion": "4"}], agent)
    compiled = dt.compile(dt.recipes["sft"], policy=agent)
    losses = [compiled.run(demonstrations=rows)["loss"] for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]
    assert rows.sampled.lengths.tolist() == [2]
