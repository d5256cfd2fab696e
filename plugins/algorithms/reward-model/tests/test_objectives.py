"""Several objectives: their loss against the formula, labels that are missing, training, and scores by name."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetail as dt
from dovetail.errors import DataError, OptionError, UserError
from dovetail.testing import part_checks, tiny_agent, tiny_rollouts
from dovetail_reward_model.reward import RewardModel
from dovetail_testing.loss_checks import loss_and_gradients
from dovetail_testing.reward_checks import score
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import judged, pair

WEIGHTS = {"help": 1.0, "harm": 0.5, "style": 2.0}
RECIPE = dt.recipes["multi-objective-reward-model"]


def labelled(preferences, ratings, group_size=2):
    """Rollouts whose rows have these columns."""
    rows = tiny_rollouts(lengths=[2 + row % 5 for row in range(len(preferences))], group_size=group_size)
    tasks = [
        dt.Task(task.id, task.messages, columns={"preferences": better, "ratings": given})
        for task, better, given in zip(rows.tasks, preferences, ratings, strict=True)
    ]
    return dt.Rollouts(rows.tokens, rows.origin, rows.groups, dt.Tasks(tasks))


def formula(scores, preferences, ratings, group_size, center):
    """The loss in plain numbers: for each group and objective the mean over its pairs, for each rated answer its error."""
    total = 0.0
    for start in range(0, len(scores), group_size):
        rows = range(start, start + group_size)
        for column, (name, weight) in enumerate(WEIGHTS.items()):
            terms = [
                math.log1p(math.exp(scores[j][column] - scores[i][column]))
                + center * (scores[i][column] + scores[j][column]) ** 2
                for i in rows
                for j in rows
                if preferences[i].get(name, -1) > preferences[j].get(name, math.inf)
            ]
            total += group_size * weight * sum(terms) / max(len(terms), 1)
            total += sum(weight * (scores[i][column] - ratings[i][name]) ** 2 for i in rows if name in ratings[i])
    return total / len(scores)


PREFERENCES = [{"help": 1.0, "harm": 0.0}, {"help": 0.0, "harm": 1.0}, {"style": 1.0}, {"style": 0.0}, {}, {}, {}, {}]
RATINGS = [{}, {}, {}, {"help": 0.5}, {"help": 3.0, "harm": 0.0}, {"harm": -1.0}, {}, {"style": 2.0}]


@pytest.mark.parametrize("center", [0.0, 0.1])
@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_the_loss_is_the_formula(group_size, center):
    """Value and gradient in float64, by central differences, over several cuts of the batch."""
    rows = labelled(PREFERENCES, RATINGS, group_size)
    scores = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = dt.losses["objectives"](objectives=WEIGHTS, center=center)

    def expected(values):
        return formula(values.tolist(), PREFERENCES, RATINGS, group_size, center)

    slopes, step = torch.zeros_like(scores), 1e-6
    for place in torch.eye(24, dtype=torch.float64).view(24, 8, 3) * step:
        slopes += place / step * (expected(scores + place) - expected(scores - place)) / (2 * step)
    for budget in (1, 20, 1 << 40):
        value, gradients = loss_and_gradients(part, rows, {"final_values": scores}, budget)
        assert value.item() == pytest.approx(expected(scores), rel=1e-9)
        torch.testing.assert_close(gradients["final_values"], slopes, rtol=1e-6, atol=1e-8)


LABEL = st.sampled_from([None, 0.0, 1.0])
ROWS = st.lists(st.tuples(*[LABEL] * 6), min_size=2, max_size=8).filter(lambda rows: len(rows) % 2 == 0)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.integers(0, 9))
def test_what_has_no_label_has_no_gradient(rows, seed):
    """A score without a label for its objective is pushed nowhere, and nothing depends on what it is."""

    def known(labels):
        return {name: label for name, label in zip(WEIGHTS, labels, strict=True) if label is not None}

    preferences, ratings = [known(row[:3]) for row in rows], [known(row[3:]) for row in rows]
    scores = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    part, rollouts = dt.losses["objectives"](objectives=WEIGHTS), labelled(preferences, ratings)
    value, gradients = loss_and_gradients(part, rollouts, {"final_values": scores})
    assert value.item() == pytest.approx(formula(scores.tolist(), preferences, ratings, 2, 0.0), abs=1e-12)
    unlabelled = torch.tensor(
        [[name not in better and name not in given for name in WEIGHTS]
         for better, given in zip(preferences, ratings, strict=True)]
    )  # fmt: skip
    assert not gradients["final_values"][unlabelled].any()
    moved = torch.where(unlabelled, scores + 1, scores)
    assert loss_and_gradients(part, rollouts, {"final_values": moved})[0].item() == value.item()


def test_metrics_are_of_what_is_labelled():
    """Accuracy and error are of pairs and ratings alone: NaN, which no mean counts, elsewhere."""
    scores = torch.tensor([[2.0, 1.0, 0.0]] * 8, dtype=torch.float64) + torch.arange(8.0)[:, None].double()
    rows = labelled(PREFERENCES, RATINGS)
    terms = dt.losses["objectives"](objectives=WEIGHTS).instance.loss_terms(scores, rows.groups, rows.tasks)

    def told(name):
        return [None if math.isnan(value) else value for value in terms.metrics[name].tolist()]

    assert told("accuracy/help") == [0.0, 0.0, *[None] * 6]
    assert told("accuracy/harm") == [1.0, 1.0, *[None] * 6]
    assert told("squared_error/help") == [None, None, None, 4.5**2, 3.0**2, None, None, None]
    assert told("score/style") == list(range(8))


@pytest.mark.parametrize("check", part_checks("recipes", "multi-objective-reward-model"), ids=str)
def test_conformance(check):
    """The recipe keeps what recipes promise."""
    check()


def answers(count, seed=0):
    """Texts of the letters a, b and c, whose truth is known: ``help`` wants the letter a, ``harm`` has no b."""
    draw = torch.Generator().manual_seed(seed)
    return ["".join("abc"[place] for place in torch.randint(0, 3, (6,), generator=draw).tolist()) for _ in range(count)]


TRUTH = {"help": lambda text: text.count("a"), "harm": lambda text: -text.count("b")}


def judgements(count, seed=0):
    """In turn a pair about one objective, a pair with a preference for each, and an answer with ratings, some missing."""
    rows, texts = [], iter(answers(4 * count, seed))
    while len(rows) < count:
        one, other = next(texts), next(texts)
        better = {name: "chosen" if true(one) > true(other) else "rejected" for name, true in TRUTH.items()
                  if true(one) != true(other)}  # fmt: skip
        if one == other or not better:
            continue
        pair = {"prompt": "say:", "chosen": one, "rejected": other}
        about = next(iter(better))
        first, second = (one, other) if better[about] == "chosen" else (other, one)
        ratings = {name: true(one) / 6 for name, true in TRUTH.items()} | ({"harm": None} if len(rows) % 2 else {})
        rows.append(
            [
                {**pair, "chosen": first, "rejected": second, "objective": about},
                {**pair, "preferences": better},
                {"prompt": "say:", "completion": one, "ratings": ratings},
            ][len(rows) % 3]
        )
    return rows


def agent(seed=0, **options):
    named = {"head": "value", "objectives": ["harm", "help"]}
    return tiny_agent(hidden=16, characters="abc say:", seed=seed, trainable=True,
                      optimizer=dt.OptimizerSettings(lr=1e-2), **{**named, **options})  # fmt: skip


def trained(rows, seed=0, steps=60, **options):
    model = agent(seed)
    compiled = dt.compile(RECIPE(objectives={"help": 1.0, "harm": 1.0}, **options), policy=model)
    for step in range(steps):
        compiled.run(judged=encode_rows(rows[8 * step : 8 * step + 8], model, judged))
    return model


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """Two members, each with other first weights and another bootstrap sample."""
    folder, rows = tmp_path_factory.mktemp("members"), judgements(480)
    return [str(trained(rows, seed, bootstrap=seed + 1).save(folder / str(seed))) for seed in range(2)]


def conversations(texts):
    return [(dt.Message("user", "say:"), dt.Message("assistant", text)) for text in texts]


def test_every_objective_ranks_held_out_answers_by_its_own_truth(ensemble):
    """At least nine pairs of ten, by one member and by the mean of all."""
    texts = answers(40, seed=9)
    for models in (ensemble[:1], ensemble):
        for name, true in TRUTH.items():
            scores = RewardModel(models, objectives={name: 1.0}).score(conversations(texts))
            truth = torch.tensor([float(true(text)) for text in texts])
            differ = truth[:, None] > truth
            assert (scores[:, None] > scores)[differ].float().mean() >= 0.9, name


def test_one_reward_is_the_weighted_sum_of_the_objectives(ensemble):
    """Mean and uncertainty are of each member's sum; by name each objective has its own."""
    some = conversations(answers(5, seed=9))
    alone = {name: RewardModel(ensemble, objectives={name: 1.0}) for name in TRUTH}
    both = RewardModel(ensemble, objectives={"help": 0.7, "harm": -0.3}, penalty=0.5)
    members = 0.7 * alone["help"].scores(some) - 0.3 * alone["harm"].scores(some)
    torch.testing.assert_close(both.score(some), members.mean(-1) - 0.5 * members.std(-1))
    assert (alone["help"].uncertainty(some) > 0).all()
    dropped = RewardModel(ensemble, objectives={"harm": 1.0}, dropout=0.1, draws=4)
    assert dropped.scores(some).shape == (5, 8)
    assert (dropped.uncertainty(some) > 0).all()


def test_the_reward_keeps_what_rewards_promise(ensemble):
    """By one objective, and by both with a penalty and dropout."""
    for options in (
        {"objectives": {"help": 1.0}},
        {"objectives": {"help": 1, "harm": 1}, "penalty": 1, "dropout": 0.1},
    ):
        for check in part_checks("rewards", "reward-model", options={"models": ensemble, **options}):
            check()


def test_rewards_with_the_same_models_read_an_answer_once(ensemble, monkeypatch):
    """The models are loaded, and asked, once for all objectives."""
    parts = [dt.rewards["reward-model"](models=ensemble, objectives={name: 1}, name=name) for name in TRUTH]
    rollouts = tiny_rollouts()
    first = score(parts[0], rollouts)
    panel = parts[1].instance._panel
    assert panel is parts[0].instance._panel
    monkeypatch.setattr(panel, "_scores_of", None)  # would raise
    second = score(parts[1], rollouts)
    assert second.valid.all()
    assert not torch.equal(first.values, second.values)


def trainer(folder, rows, objectives=("help", "harm")):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    recipe = RECIPE(objectives=dict.fromkeys(objectives, 1.0))
    return dt.Trainer(recipe, policy=agent(), data=path, run_dir=folder / "run", batch_size=12)


def test_a_run_trains_and_tells_each_objective(tmp_path):
    """Metrics by name; the folder says what its scores are called."""
    metrics = trainer(tmp_path, judgements(30)).fit(3)
    for name in TRUTH:
        assert {f"objectives/{metric}/{name}" for metric in ("accuracy", "squared_error", "score")} <= metrics.keys()
    assert RewardModel([str(tmp_path / "run" / "final")], objectives={"harm": 1}).objectives == {"harm": 1}


@pytest.mark.parametrize(
    ("rows", "objectives", "told"),
    [
        (
            [{"prompt": "p", "completion": "a", "ratings": {"hlep": 1}}],
            ["help"],
            "row 1 of the data is labelled for .*'hlep'",
        ),
        (
            [{"prompt": "p", "chosen": "a", "rejected": "b", "objective": "harm"}],
            ["help", "harm"],
            "no row .* objective 'help'",
        ),
        ([{"prompt": "p", "completion": "a", "ratings": {"help": 1, "harm": 2}}], ["help"], "labelled for .*'harm'"),
    ],
)
def test_labels_that_do_not_fit_are_told_before_anything_is_learnt(rows, objectives, told, tmp_path):
    """An objective that is unknown, and one that nothing is labelled for."""
    run = trainer(tmp_path, rows, objectives)
    with pytest.raises(DataError, match=told):
        run.fit(1)
    assert run.run.step == 0


def test_a_head_with_other_objectives_is_refused():
    """The error shows what to write."""
    with pytest.raises(UserError, match=r"the policy's head \['help'\]") as error:
        dt.compile(RECIPE(objectives={"help": 1.0, "harm": 1.0}), policy=agent(objectives=["help"])).run(
            judged=encode_rows(judgements(4), agent(), judged)
        )
    assert error.value.hint == "policy: {head: value, objectives: [help, harm]}"


def test_models_with_several_scores_say_which_of_them_count(ensemble, tmp_path):
    """Without objectives, with an unknown one, and in an ensemble with another model."""
    plain = str(tiny_agent(head="value").save(tmp_path))
    for options, told in [
        ({"models": ensemble}, "say which of them count: {harm: 1, help: 1}"),
        ({"models": ensemble, "objectives": {"hel": 1}}, "none called 'hel'; did you mean 'help'"),
        ({"models": [plain], "objectives": {"help": 1}}, "none called 'help'"),
        ({"models": [plain, *ensemble]}, "the same objectives in all its members"),
    ]:
        with pytest.raises(OptionError, match=told):
            dt.rewards["reward-model"](**options)


def test_one_value_is_not_learnt_by_a_head_with_objectives(tmp_path):
    """By the recipe `reward-model` neither in a run nor step by step, and by no critic."""
    rows = [{"prompt": "say:", "chosen": "a", "rejected": "b"}]
    with pytest.raises(UserError, match="its head has the objectives"):
        dt.Trainer("reward-model", policy=agent(), data=tmp_path / "none.jsonl")
    compiled = dt.compile(dt.recipes["reward-model"], policy=agent())
    with pytest.raises(DataError, match="the head has 2 objectives"):
        compiled.run(pairs=encode_rows(rows, agent(), pair))


@pytest.mark.parametrize("objectives", [{}, {"help": 0.0}, {"help": math.nan}])
def test_weights_that_teach_nothing_are_refused(objectives):
    """At least one objective, each with a weight above 0."""
    with pytest.raises(OptionError, match="each with a weight above 0"):
        dt.losses["objectives"](objectives=objectives)
