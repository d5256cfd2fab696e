"""The loss and the recipe."""

import pytest
import torch

import dovetail as dt
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_agent
from dovetail_sft.nll import NLL
from dovetail_trainer.data import encode_rows

CHECKS = [
    *(check for name in ("token_mean", "sequence_mean", "sequence_sum_mean")
      for check in part_checks("losses", "nll", options={"reduction": name})),
    *part_checks("recipes", "sft"),
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


def test_a_term_is_minus_the_log_probability():
    """Value, gradient -1, and a metric without gradient."""
    values = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    found = NLL(reduction="sequence_mean").loss_terms(dt.Ragged.from_lengths(values, torch.tensor([2, 0, 1])))
    found.terms.values.sum().backward()
    assert found.terms.tolist() == [[1.0, 2.0], [], [0.5]]
    assert values.grad.tolist() == [-1.0, -1.0, -1.0]
    assert found.reduction == "sequence_mean"
    assert found.metrics["nll"].tolist() == found.terms.tolist()


def test_an_unknown_reduction_is_refused():
    """The error names the part."""
    with pytest.raises(OptionError, match=r"losses part 'nll'.*reduction"):
        dt.losses.nll(reduction="median")


def test_it_learns_a_row_by_heart():
    """The loss of one row falls towards 0, and its prompt carries none."""
    agent = tiny_agent(optimizer=dt.OptimizerSettings(lr=1e-2), hidden=32)
    agent.trainable = True
    rows = encode_rows([{"prompt": "2+2=", "completion": "4"}], agent)
    compiled = dt.compile(dt.recipes["sft"], policy=agent)
    losses = [compiled.run(demonstrations=rows)["loss"] for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]
    assert rows.sampled.lengths.tolist() == [2]
