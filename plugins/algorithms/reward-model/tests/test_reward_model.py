"""The likelihood of preferences, a model that learns them, and what an ensemble does not know."""

import math

import attrs
import pytest
import torch

import dovetail as dt
from dovetail.errors import DataError, DovetailError, OptionError
from dovetail.testing import part_checks, tiny_agent, tiny_rollouts
from dovetail_reward_model.bradley_terry import BradleyTerry, _poisson
from dovetail_reward_model.dropout import Dropped
from dovetail_reward_model.reward import RewardModel
from dovetail_testing.loss_checks import inputs, loss_and_gradients, row_inputs
from dovetail_testing.reward_checks import score
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import pair

CHARACTERS = "abcdefghijklmnopqrstuvwxyz 0123456789:"


def letters(count, seed=0):
    """Pairs whose truth is known: the answer with more of the letter a is the better one."""
    draw = torch.Generator().manual_seed(seed)

    def answer(share):
        picked = (torch.rand(6, generator=draw) < share).tolist()
        others = torch.randint(0, 5, (6,), generator=draw).tolist()
        return "".join("a" if is_a else "bcdef"[other] for is_a, other in zip(picked, others, strict=True))

    rows = []
    while len(rows) < count:
        worse, better = sorted((answer(0.6), answer(0.2)), key=lambda text: text.count("a"))
        if worse.count("a") < better.count("a"):
            rows.append({"prompt": "say:", "chosen": better, "rejected": worse})
    return rows


def agent(**options):
    settings = {"hidden": 32, "characters": CHARACTERS, "optimizer": dt.OptimizerSettings(lr=5e-3)}
    return tiny_agent(head="value", trainable=True, **{**settings, **options})


def trained(seed=0, steps=120, **options):
    """A model after a few steps on letters, in another order for each seed."""
    model, rows = agent(seed=seed), letters(8 * steps)
    compiled = dt.compile(dt.recipes["reward-model"](**options), policy=model)
    for step in range(steps):
        compiled.run(pairs=encode_rows(rows[8 * step : 8 * step + 8], model, pair))
    return model


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """The folders of three members, each with other first weights and another bootstrap sample."""
    folder = tmp_path_factory.mktemp("members")
    return [str(trained(seed=seed, bootstrap=seed + 1, center=0.02).save(folder / str(seed))) for seed in range(3)]


OPTIONS = [{}, {"center": 0.1}, {"bootstrap": 2}]
LOSS_CHECKS = [check for options in OPTIONS for check in part_checks("losses", "bradley-terry", options=options)]


@pytest.mark.parametrize("check", [*LOSS_CHECKS, *part_checks("recipes", "reward-model")], ids=str)
def test_conformance(check):
    """Loss and recipe keep what their kind promises."""
    check()


def test_the_reward_keeps_what_rewards_promise(ensemble):
    """One model, an ensemble with a penalty, and dropout."""
    for options in (
        {"models": ensemble[:1]},
        {"models": ensemble, "penalty": 1.0},
        {"models": ensemble, "dropout": 0.1},
    ):
        for check in part_checks("rewards", "reward-model", options=options):
            check()


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("center", [0.0, 0.1])
@pytest.mark.parametrize("margin", [False, True])
def test_the_loss_is_the_likelihood_of_the_preferences(center, margin):
    """The mean over all preferences of a group, then over groups, and its gradient by central differences."""
    rollouts = tiny_rollouts(lengths=(3, 4, 5, 2, 6, 7), group_size=3, columns=[{"margin": 0.5}, {"margin": 0.0}])
    labels = [2.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    given = {**inputs(rollouts), **row_inputs(rollouts)}
    given["rewards"] = rollouts.sampled.spread(torch.tensor(labels, dtype=torch.float64))
    part = dt.losses["bradley-terry"](center=center, margin=margin)
    value, gradients = loss_and_gradients(part, rollouts, given)
    preferred = [[(0, 1, 0.5), (0, 2, 0.5)], [(4, 3, 0.0), (5, 3, 0.0)]]

    def formula(scores):
        terms = [
            [
                -log_sigmoid(scores[i] - scores[j] - m * margin) + center * (scores[i] + scores[j]) ** 2
                for i, j, m in group
            ]
            for group in preferred
        ]
        return sum(sum(group) / len(group) for group in terms) / len(terms)

    scores, step = given["final_values"], 1e-6
    assert value.item() == pytest.approx(formula(scores.tolist()), rel=1e-9)
    unit = torch.eye(len(scores), dtype=scores.dtype) * step
    slopes = [(formula((scores + u).tolist()) - formula((scores - u).tolist())) / (2 * step) for u in unit]
    assert gradients["final_values"].tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-8)


def test_a_bootstrap_sample_is_poisson_and_its_own():
    """Mean and variance 1; other members draw otherwise, the same member the same."""
    draws = torch.tensor([[_poisson(member, f"row {row}") for row in range(2000)] for member in (1, 2)]).double()
    assert draws.mean().item() == pytest.approx(1.0, abs=0.06)
    assert draws.var().item() == pytest.approx(1.0, abs=0.12)
    assert (draws[0] != draws[1]).double().mean() > 0.4
    assert _poisson(1, "row 0") == draws[0, 0]


def test_held_out_pairs_are_ranked(ensemble):
    """At least nine of ten, by each member and by all."""
    rows = letters(100, seed=9)
    for models in (*([model] for model in ensemble), ensemble):
        part = RewardModel(models)
        better, worse = (part.score(conversations(rows, key)) for key in ("chosen", "rejected"))
        assert (better > worse).float().mean() >= 0.9


def conversations(rows, key):
    return [(dt.Message("user", row["prompt"]), dt.Message("assistant", row[key])) for row in rows]


def test_an_ensemble_is_less_sure_of_what_it_has_not_seen(ensemble):
    """Answers of other letters and lengths, against held-out ones of the kind it learnt; the penalty takes from both."""
    part = RewardModel(ensemble)
    known = [answer for key in ("chosen", "rejected") for answer in conversations(letters(30, seed=9), key)]
    strange = [
        (prompt, dt.Message("assistant", f"{row} zyxwv utsrq {row * 7}")) for row, (prompt, _) in enumerate(known)
    ]
    assert part.uncertainty(strange).mean() > 1.3 * part.uncertainty(known).mean()
    careful = attrs.evolve(part, penalty=2.0)
    expected = part.score(strange) - 2 * part.uncertainty(strange)
    assert torch.allclose(careful.score(strange), expected, atol=1e-5)


def test_dropout_tells_uncertainty_too(tmp_path):
    """Draws differ, their mean is near the score without dropout, and the penalty is taken."""
    model = str(trained(dropout=0.1).save(tmp_path))
    some = conversations(letters(5, seed=9), "chosen")
    plain, dropped = RewardModel([model]), RewardModel([model], dropout=0.1, draws=64)
    scores = dropped.scores(some)
    assert scores.shape == (5, 64)
    assert (dropped.uncertainty(some) > 0).all()
    assert torch.allclose(scores.mean(-1), plain.score(some), atol=4 * scores.std().item() / 8)


def test_dropout_in_training_is_drawn_anew():
    """Two passes differ; without it they do not."""
    model = agent()
    torch.nn.init.ones_(model.value_head.weight)
    hidden = torch.ones(3, 32)
    assert not torch.equal(Dropped(model, 0.5).value(hidden), Dropped(model, 0.5).value(hidden))
    assert torch.equal(Dropped(model, 0.0).value(hidden), model.value(hidden))


def test_rows_are_read_as_in_training(ensemble):
    """The tokens that a conversation is scored on are those of the rows that the model learnt from."""
    from dovetail_reward_model.panel import _encoded

    model, rows = dt.Agent(ensemble[0], head="value"), letters(3)
    for template in (None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"):
        model.tokenizer.chat_template = template
        encoded = encode_rows(rows, model, pair).tokens.tolist()
        expected = [_encoded(model, conversation) for conversation in conversations(rows, "chosen")]
        assert encoded[::2] == expected


def test_nan_is_invalid_and_never_0(ensemble, tmp_path):
    """A model whose head is broken invalidates the samples, with a reason."""
    broken = dt.Agent(ensemble[0], head="value")
    torch.nn.init.constant_(broken.value_head.bias, math.nan)
    part = dt.rewards["reward-model"](models=[str(broken.save(tmp_path))])
    scores = score(part, tiny_rollouts())
    assert not scores.valid.any()
    assert set(scores.reasons.values()) == {"returned nan"}


def test_an_answer_that_is_too_long_is_invalid(ensemble):
    """It alone, and the reason tells the room."""
    found = score(dt.rewards["reward-model"](models=ensemble[:1]), tiny_rollouts(lengths=(3, 100), group_size=2))
    assert found.valid.tolist() == [True, False]
    assert "a context of 64" in found.reasons[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"models": []}, "models"),
        ({"models": ["/nowhere"]}, "/nowhere is no reward model"),
        ({"models": None, "penalty": 1.0}, "penalty needs several models"),
        ({"models": None, "dropout": 1.0}, "dropout"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told, ensemble):
    """The error names the option."""
    given = {**options, "models": ensemble[:1] if options["models"] is None else options["models"]}
    with pytest.raises(OptionError, match=told):
        dt.rewards["reward-model"](**given)


def test_a_policy_without_a_value_head_is_refused():
    """The error says what to ask for."""
    compiled = dt.compile(dt.recipes["reward-model"], policy=tiny_agent(trainable=True))
    with pytest.raises(DovetailError, match="no value head"):
        compiled.run(pairs=encode_rows(letters(2), tiny_agent(), pair))


def test_margins_that_are_missing_are_told():
    """The column is named."""
    rollouts = tiny_rollouts()
    rewards = rollouts.sampled.map(torch.Tensor.float)
    with pytest.raises(DataError, match="'margin'"):
        BradleyTerry(margin=True).loss_terms(torch.zeros(8), rewards, rollouts.groups, rollouts.tasks)
