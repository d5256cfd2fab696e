"""Fifty optimizer steps go the same way, however the work is cut, shared, or compiled.

An error of one part in a million in a gradient shows in no single step, and in a long run as another model. So whole
trajectories are compared: the loss and the gradient norm of each step within a tolerance, and their differences without
a side: a gradient that is too large by a little each time has a mean difference that does not shrink.
"""

from __future__ import annotations

import statistics

import pytest
from trajectories import EIGHTH, OPTIONS, shared_trajectory, trajectory

pytestmark = pytest.mark.slow

# RMS norms and rotations are float32 also in a float64 model, and 50 steps carry their rounding on. Steps are small,
# because in large ones it grows until another token is drawn, after which nothing can be compared.
STEP_TOLERANCE, DRIFT_TOLERANCE = 1e-4, 1e-5
#: what may not change a number
WAYS = {
    "eight micro-batches": lambda name: trajectory(name, budget=EIGHTH),
    "prompts apart": lambda name: trajectory(name, share=False),
    "eager": lambda name: trajectory(name, mode="eager"),
    "two processes": shared_trajectory,
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def straight(request):
    """A recipe, and its trajectory in one micro-batch."""
    return request.param, trajectory(request.param)


@pytest.mark.parametrize("way", WAYS)
def test_a_trajectory_does_not_depend_on_how_it_is_computed(straight, way):
    """Each step within the tolerance, and no drift to one side."""
    name, expected = straight
    found = WAYS[way](name)
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
