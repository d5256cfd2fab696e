"""The losses beside their formulas, pair by pair in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dovetail as dt
from dovetail.errors import OptionError
from dovetail.testing import part_checks, tiny_rollouts
from dovetail_preferences.dpo import DPOLoss
from dovetail_preferences.orpo import ORPOLoss
from dovetail_preferences.pairs import Pairs
from dovetail_testing.loss_checks import inputs, loss_and_gradients

VARIANTS = [
    *(("dpo", {"loss_type": name}) for name in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard")),
    *(("dpo", {"loss_type": name}) for name in ("apo_zero", "apo_down", "discopop", "sft")),
    *(("dpo", {"loss_type": name, "label_smoothing": 0.2}) for name in ("robust", "cdpo", "exo_pair", "aot")),
    ("dpo", {"loss_type": "ipo", "normalize": False}),
    ("dpo", {"nll_coef": 1.0, "beta": 0.5}),
    ("cpo", {}),
    ("cpo", {"loss_type": "hinge", "nll_coef": 0.0}),
    ("simpo", {"label_smoothing": 0.1}),
    ("orpo", {}),
    ("kto", {"desirable_weight": 1.5}),
    ("kto", {"loss_type": "apo_zero_unpaired"}),
]
ROW = {"label": 1.0}
CHECKS = [
    *(check for name, options in VARIANTS for check in part_checks("losses", name, options=options)),
    *(check for name in ("dpo", "online-dpo", "cpo", "simpo", "orpo", "kto") for check in part_checks("recipes", name)),
    *part_checks("rewards", "label", rollouts=tiny_rollouts(columns=[ROW, {"label": 0.0}])),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """Every part keeps what its kind promises."""
    check()


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_odds(p):
    return p - math.log(-math.expm1(p))


def smooth(x, e):
    return -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x)


# What the papers say of one pair: log-probs of both answers' tokens, of the reference, and the batch's baseline.
PAPERS = {
    "sigmoid": lambda c, j, b, e, **_: -log_sigmoid(b * (c - j)),
    "hinge": lambda c, j, b, e, **_: max(0.0, 1 - b * (c - j)),
    "ipo": lambda c, j, b, e, nc, nj, **_: (c / nc - j / nj - 1 / (2 * b)) ** 2,
    "cdpo": lambda c, j, b, e, **_: smooth(b * (c - j), e),
    "robust": lambda c, j, b, e, **_: (
        (-(1 - e) * log_sigmoid(b * (c - j)) + e * log_sigmoid(-b * (c - j))) / (1 - 2 * e)
    ),
    "exo_pair": lambda c, j, b, e, **_: sum(
        q * (math.log(q) - math.log(p)) for q, p in ((sigmoid(b * (c - j)), 1 - e), (sigmoid(b * (j - c)), e))
    ),
    "nca_pair": lambda c, j, b, e, **_: -log_sigmoid(b * c) - (log_sigmoid(-b * c) + log_sigmoid(-b * j)) / 2,
    "bco_pair": lambda c, j, b, e, **_: -log_sigmoid(b * c) - log_sigmoid(-b * j),
    "sppo_hard": lambda c, j, b, e, **_: (c - 1 / (2 * b)) ** 2 + (j + 1 / (2 * b)) ** 2,
    "aot": lambda c, j, b, e, pc, pj, z, **_: smooth(b * (pc - pj - z), e),
    "apo_zero": lambda c, j, b, e, **_: 1 - sigmoid(b * c) + sigmoid(b * j),
    "apo_down": lambda c, j, b, e, **_: sigmoid(b * c) + 1 - sigmoid(b * (c - j)),
    "discopop": lambda c, j, b, e, **_: (
        -log_sigmoid(b * (c - j)) * (1 - sigmoid(b * (c - j) / 0.05))
        + math.exp(-b * (c - j)) * sigmoid(b * (c - j) / 0.05)
    ),
    "sft": lambda c, j, b, e, pc, nc, **_: -pc / nc,
}


def one_pair(lengths, seed=0):
    """A batch of one pair, the second row chosen, and made-up values; ``lengths`` are those of the answers."""
    rollouts = tiny_rollouts(lengths=lengths, group_size=2)
    values = inputs(rollouts, seed=seed)
    rewards = rollouts.sampled.spread(torch.tensor([0.0, 1.0], dtype=torch.float64))
    return rollouts, {**values, "rewards": rewards, "baselines": torch.tensor([0.3, 0.3], dtype=torch.float64)}


@pytest.mark.parametrize("loss_type", PAPERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_term_is_its_formula(loss_type, seed):
    """Value, and gradient by central differences."""
    epsilon = 0.2 if loss_type in ("robust", "cdpo", "exo_pair", "aot") else 0.0
    part = dt.losses.dpo(loss_type=loss_type, beta=0.3, label_smoothing=epsilon)
    rollouts, values = one_pair((4, 6), seed)
    value, gradients = loss_and_gradients(part, rollouts, values)

    def formula(flat):
        (pj, pc), (rj, rc) = (
            rollouts.sampled.with_values(v).sum().tolist() for v in (flat, values["ref_logprobs"].values)
        )
        return PAPERS[loss_type](pc - rc, pj - rj, 0.3, epsilon, pc=pc, pj=pj, nc=6, nj=4, z=0.3)

    flat, step = values["logprobs"].values, 1e-6
    assert value.item() == pytest.approx(formula(flat), rel=1e-9)
    unit = torch.eye(len(flat), dtype=flat.dtype) * step
    slopes = [(formula(flat + each) - formula(flat - each)) / (2 * step) for each in unit]
    assert gradients["logprobs"].values.tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("cpo", {"beta": 0.5}, lambda c, j, nc, nj: -log_sigmoid(0.5 * (c - j)) - c / nc),
        ("simpo", {}, lambda c, j, nc, nj: -log_sigmoid(2 * (c / nc - j / nj) - 1)),
        ("orpo", {"coef": 0.2}, lambda c, j, nc, nj: -c / nc - 0.2 * log_sigmoid(log_odds(c / nc) - log_odds(j / nj))),
    ],
)
def test_losses_without_a_reference_are_their_formula(name, options, formula):
    """Equations of the papers, on one pair."""
    rollouts, values = one_pair((4, 6))
    value, _ = loss_and_gradients(dt.losses[name](**options), rollouts, values)
    worse, better = values["logprobs"].sum().tolist()
    assert value.item() == pytest.approx(formula(better, worse, 6, 4), rel=1e-9)


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_kto_weighs_what_is_desirable_and_what_is_not(baseline):
    """Equation 7 of the paper, row by row."""
    rollouts, values = one_pair((4, 6))
    values["baselines"] = torch.full((2,), baseline, dtype=torch.float64)
    value, _ = loss_and_gradients(dt.losses.kto(desirable_weight=1.5, beta=0.2), rollouts, values)
    worse, better = (values["logprobs"] - values["ref_logprobs"]).sum().tolist()
    terms = 1.5 * (1 - sigmoid(0.2 * (better - baseline))), 1 - sigmoid(0.2 * (baseline - worse))
    assert value.item() == pytest.approx(sum(terms) / 2, rel=1e-9)


GROUPS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=1, max_size=4), min_size=1, max_size=5)


@given(GROUPS)
def test_a_pair_is_the_best_and_the_worst_of_a_group(groups):
    """The first of equals; no pair where nothing is preferred; rewards that are none do not count."""
    rewards = torch.tensor([reward for group in groups for reward in group])
    numbers = torch.tensor([7 * number for number, group in enumerate(groups) for _ in group])
    pairs = Pairs.of(rewards, numbers, torch.ones(len(rewards), dtype=torch.int64))
    expected, start = [], 0
    for group in groups:
        known = [reward for reward in group if not math.isnan(reward)]
        if known and max(known) > min(known):
            expected.append((start + group.index(max(known)), start + group.index(min(known))))
        start += len(group)
    assert list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)) == expected
    values = torch.arange(1.0, len(expected) + 1)
    spread = pairs.spread(values).tolist()
    for value, (chosen, rejected) in zip(values.tolist(), expected, strict=True):
        assert spread[chosen] == spread[rejected] == value
    assert sum(value == 0 for value in spread) == len(rewards) - sum(
        len(group) for group in groups if len({r for r in group if not math.isnan(r)}) > 1
    )


def test_a_group_without_a_preference_teaches_nothing():
    """Equal rewards give loss 0 and no gradient, and the share of groups with a pair is told."""
    rollouts, values = one_pair((4, 6))
    values["rewards"] = values["rewards"].map(torch.ones_like)
    value, gradients = loss_and_gradients(dt.losses.dpo(), rollouts, values)
    assert value == 0
    assert not gradients["logprobs"].values.any()
    terms = DPOLoss().loss_terms(
        *(values[name] for name in ("logprobs", "ref_logprobs", "rewards")), rollouts.groups, None
    )
    assert terms.metrics["pairs"].tolist() == [0.0, 0.0]


def test_orpo_is_finite_where_an_answer_is_certain():
    """Log-probs of 0, whose odds have no logarithm."""
    rollouts, values = one_pair((4, 6))
    certain = values["logprobs"].map(torch.zeros_like).to(torch.float32)
    live = certain.with_values(certain.values.requires_grad_())
    terms = ORPOLoss().loss_terms(live, values["rewards"].to(torch.float32), rollouts.groups).terms
    terms.sum().backward()
    assert torch.isfinite(terms).all()
    assert torch.isfinite(live.values.grad).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beta": 0.0}, "'beta' must be > 0"),
        ({"loss_type": "best"}, "loss_type"),
        ({"label_smoothing": 0.1}, "label_smoothing belongs to"),
        ({"loss_type": "exo_pair"}, "exo_pair needs a label_smoothing"),
        ({"loss_type": "cdpo", "label_smoothing": 0.5}, "must be < 0.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told):
    """The error names the option."""
    with pytest.raises(OptionError, match=told):
        dt.losses.dpo(**options)
