"""A student that samples comes nearer to its teacher."""

import pytest
import torch

import dovetail as dt
from dovetail.errors import UserError
from dovetail.testing import tiny_agent

CHARACTERS = "abcdefghij:"


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
