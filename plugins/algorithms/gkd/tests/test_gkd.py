"""The divergence beside its definition, and a student that comes nearer to its teacher."""

import pytest
import torch

import dovetail as dt
from dovetail.errors import RecipeError, UserError
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


@pytest.mark.parametrize(("beta", "top_k"), [(0.5, None), (1.0, None), (0.5, 5)])
def test_a_student_comes_nearer_to_its_teacher(beta, top_k):
    """On its own answers, by every divergence."""
    student, teacher = agents()
    recipe = dt.recipes["gkd"](samples=2, beta=beta, top_k=top_k)
    compiled = dt.compile(recipe, policy=student, teacher=teacher, sampling=dt.Sampling(max_tokens=8))
    losses = [compiled.run(prompts=["a:", "b:", "c:"])["loss"] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_a_step_does_not_depend_on_how_the_batch_is_cut():
    """Loss and gradient, and the same in eager mode; the teacher gets none."""
    student, teacher = agents(dtype="float64")
    found = []
    for budget, mode in ((10_000, "auto"), (1, "auto"), (30, "auto"), (1, "eager")):
        settings = dt.TrainSettings(micro_batch_tokens=budget, sampling=dt.Sampling(max_tokens=8))
        compiled = dt.compile(
            dt.recipes["gkd"](samples=2), policy=student, teacher=teacher, settings=settings, mode=mode
        )
        loss = compiled.learn(compiled.collect(prompts=["a:", "bb:", "c:"], seed=1), update=False)["loss"]
        found.append((loss, torch.cat([p.grad.flatten() for p in student.model.parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert (gradient - found[0][1]).norm() < 1e-6 * found[0][1].norm()
    assert all(p.grad is None for p in teacher.model.parameters())


def test_a_teacher_with_another_vocabulary_is_refused():
    """Both sizes are told."""
    student, _ = agents()
    compiled = dt.compile(dt.recipes["gkd"], policy=student, teacher=tiny_agent(characters="ab"),
                          sampling=dt.Sampling(max_tokens=4))  # fmt: skip
    with pytest.raises(UserError, match="14 tokens in its output layer, the teacher 5"):
        compiled.run(prompts=["a:"])


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
