"""Fifty optimizer steps go the same way, however the work is cut, shared, or compiled.

An error of one part in a million in a gradient shows in no single step, and in a long run as another model. So whole
trajectories are compared: the loss and the gradient norm of each step within a tolerance, and their differences without
a side: a gradient that is too large by a little each time has a mean difference that does not shrink.
"""

from __future__ import annotations

import statistics

import pytest
from parts_of_tests import lowercase, tiny_policy

import dovetail as dt
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import layout_of

pytestmark = pytest.mark.slow

STEPS = 50
PROMPTS = ["1+1=", "a longer prompt", "zz"]
ROWS = [{"prompt": f"{i}+{i}=", "completion": str(2 * i) * (i + 1)} for i in range(6)]
PAIRS = [{"prompt": f"{i}+{i}=", "chosen": "a" * (i + 1), "rejected": str(2 * i)} for i in range(6)]
DATA = {"sft": ("demonstrations", ROWS), "dpo": ("pairs", PAIRS)}
OPTIONS = {"sft": {}, "dpo": {"beta": 0.5}, "grpo": {"group_size": 4, "beta": 0.05}, "ppo": {"samples": 4, "epochs": 2}}
WHOLE, EIGHTH = 1 << 20, 24
# RMS norms and rotations are float32 also in a float64 model, and 50 steps carry their rounding on. Steps are small,
# because in large ones it grows until another token is drawn, after which nothing can be compared.
STEP_TOLERANCE, DRIFT_TOLERANCE = 1e-4, 1e-5
#: what may not change a number
WAYS = {
    "eight micro-batches": {"budget": EIGHTH},
    "prompts apart": {"share": False},
    "eager": {"mode": "eager"},
}


def trajectory(name, *, budget=WHOLE, share=True, mode="auto"):
    """Loss and gradient norms of every step; sampled with seeds of their own, so that equal weights draw equal tokens."""
    learning = dt.OptimizerSettings(use="torch.optim.SGD", lr=0.012, options={"momentum": 0.9})
    shape = {"dtype": "float64", "optimizer": learning, "share_prompts": share}
    policy = tiny_policy(**shape)
    agents = {} if name == "sft" else {"ref_policy": tiny_policy(**shape).frozen()}
    if name == "ppo":
        agents["value_model"] = tiny_policy(**shape, head="value", seed=4)
    rewards = [] if name in DATA else [lowercase]
    settings = dt.TrainSettings(micro_batch_tokens=budget, sampling=dt.Sampling(max_tokens=8))
    compiled = dt.compile(
        dt.recipes[name](**OPTIONS[name]), policy=policy, settings=settings, mode=mode, rewards=rewards, **agents
    )  # fmt: skip
    reads, rows = DATA.get(name, ("prompts", PROMPTS))
    given = {reads: encode_rows(rows, policy, layout_of(reads)) if name in DATA else rows}
    steps = [compiled.run(**given) for _ in range(STEPS // (2 if name == "ppo" else 1))]
    assert policy.version == STEPS
    watched = [key for key in steps[0] if key == "loss" or key.endswith("grad_norm")]
    return {key: [metrics[key] for metrics in steps] for key in watched}


@pytest.fixture(scope="module", params=list(OPTIONS))
def straight(request):
    """A recipe, and its trajectory in one micro-batch."""
    return request.param, trajectory(request.param)


@pytest.mark.parametrize("way", WAYS)
def test_a_trajectory_does_not_depend_on_how_it_is_computed(straight, way):
    """Each step within the tolerance, and no drift to one side."""
    name, expected = straight
    found = trajectory(name, **WAYS[way])
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        size = statistics.fmean(map(abs, values))
        residuals = [(ours - theirs) / size for ours, theirs in zip(found[key], values, strict=True)]
        assert max(map(abs, residuals)) < STEP_TOLERANCE, key
        assert abs(statistics.fmean(residuals)) < DRIFT_TOLERANCE, key


def test_a_trajectory_leads_somewhere(straight):
    """Nothing is shown by steps that stand still: gradients change by far more than the tolerance."""
    name, expected = straight
    norms = next(values for key, values in expected.items() if key.endswith("grad_norm"))
    assert abs(norms[-1] - norms[0]) > 100 * STEP_TOLERANCE * norms[0], name
