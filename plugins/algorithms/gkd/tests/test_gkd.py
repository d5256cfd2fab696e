"""The divergence beside its definition."""

import pytest
import torch

import dovetail as dt
from dovetail.errors import RecipeError
from dovetail.testing import part_checks, tiny_agent
from dovetail_gkd.divergence import divergence, generalised_jsd

CHARACTERS = "abcdefghij:"


@pytest.mark.parametrize("check", part_checks("recipes", "gkd"), ids=str)
def test_conformance(check):
    """The recipe keeps what recipes promise."""
    check()


def log_distributions(seed):
    return torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_is_its_definition(beta):
    """Probabilities instead of their logarithms, and the gradient by automatic differentiation of that."""
    teacher = log_distributions(0)
    logits = log_distributions(1).requires_grad_()
    found = generalised_jsd(logits.log_softmax(-1), teacher, beta)
    p, q = teacher.exp(), logits.softmax(-1)
    mixed = beta * p + (1 - beta) * q
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    between = beta * (p * (p / mixed).log()).sum(-1) + (1 - beta) * (q * (q / mixed).log()).sum(-1)
    expected = {0.0: forward, 1.0: reverse}.get(beta, between)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def agents(**options):
    student = tiny_agent(characters=CHARACTERS, trainable=True, optimizer=dt.OptimizerSettings(lr=1e-2), **options)
    return student, tiny_agent(characters=CHARACTERS, seed=7, **options)


@pytest.mark.parametrize(
    ("options", "told"), [({"beta": 1.5}, "beta"), ({"temperature": 0.0}, "temperature"), ({"top_k": 1}, "top_k")]
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the option."""
    with pytest.raises(RecipeError, match=told):
        dt.recipes["gkd"](**options).trace()


def test_no_sampled_token_is_no_loss():
    """A batch of empty answers gives empty terms."""
    student, teacher = agents()
    rows = dt.Ragged.from_rows([torch.tensor([3, 4])])
    rollouts = dt.Rollouts(
        tokens=rows, origin=rows.with_values(torch.zeros(2, dtype=torch.uint8)), groups=torch.tensor([0]),
        tasks=dt.Tasks([dt.Task.of("")]),
    )  # fmt: skip
    assert divergence(student, teacher, rollouts, 0.5, 1.0, None).terms.tolist() == [[]]
