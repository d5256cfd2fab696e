"""The recipes on data whose truth is known, and what they compute before a step."""

import pytest
import torch

import dovetail as dt
from dovetail.errors import DataError, RecipeError
from dovetail.testing import tiny_agent, tiny_rollouts
from dovetail_preferences.operations import mismatched, sorted_references
from dovetail_preferences.references import cached_logprobs

RECIPES = ["dpo", "cpo", "simpo", "orpo", "kto"]


def letters(count, seed=0):
    """Pairs whose truth is known: the answer with more of the letter a is the better one."""
    draw = torch.Generator().manual_seed(seed)

    def answer(share):
        picked = (torch.rand(6, generator=draw) < share).tolist()
        others = torch.randint(0, 5, (6,), generator=draw).tolist()
        return "".join("a" if is_a else "bcdef"[other] for is_a, other in zip(picked, others, strict=True))

    rows = []
    while len(rows) < count:
        one, other = sorted((answer(0.6), answer(0.2)), key=lambda text: text.count("a"))
        if one.count("a") < other.count("a"):
            prompt = "say " + "xyz"[int(torch.randint(0, 3, (), generator=draw))] + ":"
            rows.append({"prompt": prompt, "chosen": other, "rejected": one})
    return rows


def agent(**options):
    return tiny_agent(hidden=32, characters="abcdefxyzs :", optimizer=dt.OptimizerSettings(lr=1e-2), **options)


def compiled_and_rows(name, rows, policy, **options):
    """A recipe with its frozen reference, and rows as it reads them."""
    from dovetail_trainer.data import encode_rows
    from dovetail_trainer.layouts import layout_of

    recipe = dt.recipes[name](**options)
    policy.trainable = True
    references = {"ref_policy": policy.frozen()} if "ref_policy" in recipe.inputs else {}
    settings = dt.TrainSettings(micro_batch_tokens=options.pop("budget", None))
    given = "labelled" if name == "kto" else "pairs"
    encoded = encode_rows(rows, policy, layout_of(given))
    return dt.compile(recipe, policy=policy, settings=settings, **references), {given: encoded}


@pytest.mark.parametrize("name", RECIPES)
def test_the_margin_on_held_out_pairs_rises(name):
    """Thirty steps on a preference whose truth is known."""
    policy, train, held_out = agent(), letters(240), letters(64, seed=1)
    if name == "kto":
        pairs = [(row["prompt"], row[key], key == "chosen") for row in train for key in ("chosen", "rejected")]
        train = [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in pairs]
    compiled, _ = compiled_and_rows(name, train[:2], policy)
    judge, seen = compiled_and_rows("simpo", held_out, policy)
    before = judge.learn(judge.collect(**seen), update=False)
    for step in range(30):
        _, batch = compiled_and_rows(name, train[8 * step : 8 * step + 8], policy)
        compiled.run(**batch)
    after = judge.learn(judge.collect(**seen), update=False)
    assert after["simpo/margin"] > before["simpo/margin"] + 0.5
    assert after["simpo/accuracy"] > max(0.9, before["simpo/accuracy"])


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in RECIPES), ("dpo", {"loss_type": "aot", "label_smoothing": 0.1})]
)
def test_a_step_does_not_depend_on_how_the_batch_is_cut(name, options):
    """Loss and gradient, one micro-batch or as many as there are pairs, and in eager mode."""
    from dovetail_trainer.data import encode_rows
    from dovetail_trainer.layouts import layout_of

    policy, found = agent(dtype="float64", trainable=True), []
    given = "labelled" if name == "kto" else "pairs"
    recipe = dt.recipes[name](**options)
    reference = tiny_agent(hidden=32, characters="abcdefxyzs :", dtype="float64", seed=5)
    agents = {"ref_policy": reference} if "ref_policy" in recipe.inputs else {}
    rows = letters(6)
    if name == "kto":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": i < 3} for i, row in enumerate(rows)]
    batch = encode_rows(rows, policy, layout_of(given))
    for budget, mode in ((10_000, "auto"), (1, "auto"), (50, "auto"), (1, "eager")):
        settings = dt.TrainSettings(micro_batch_tokens=budget)
        compiled = dt.compile(recipe, policy=policy, settings=settings, mode=mode, **agents)
        metrics = compiled.learn(compiled.collect(**{given: batch}), update=False)
        found.append((metrics["loss"], torch.cat([p.grad.flatten() for p in policy.model.parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-9)
        assert (gradient - found[0][1]).norm() < 1e-6 * found[0][1].norm()


def test_references_of_aot_are_matched_by_rank():
    """The k-th smallest difference of the policy meets the k-th smallest of the reference."""
    import asyncio

    rollouts = tiny_rollouts(lengths=(1, 1, 1, 1, 1, 1), group_size=2)

    def given(chosen, rejected):
        values = [value for pair in zip(chosen, rejected, strict=True) for value in pair]
        return rollouts.sampled.with_values(torch.tensor(values))

    ours, theirs = given([3.0, 1.0, 2.0], [0.0, 0.0, 0.0]), given([10.0, 20.0, 30.0], [0.0, 0.0, 0.0])
    rewards = torch.tensor([1.0, 0.0] * 3)
    found = asyncio.run(sorted_references(rollouts, ours, theirs, rewards))
    assert found.tolist() == [30.0, 30.0, 10.0, 10.0, 20.0, 20.0]


def test_kto_takes_answers_of_other_prompts():
    """Also where two rows share a prompt; a batch of one prompt is refused."""
    import asyncio

    from dovetail_trainer.data import encode_rows
    from dovetail_trainer.layouts import pair

    policy, rows = agent(), letters(3)
    encoded = encode_rows(rows, policy, pair)
    found = asyncio.run(mismatched(policy, encoded))
    others = [rows[-1], *rows[:-1]]
    assert [policy.decode(row) for row in found.completions.tolist()] == [
        row[key] for row in others for key in ("chosen", "rejected")
    ]
    assert found.prompts.tolist() == encoded.prompts.tolist()
    with pytest.raises(DataError, match="too few prompts"):
        asyncio.run(mismatched(policy, encoded.select([0, 1])))


def test_references_are_computed_once(tmp_path, monkeypatch):
    """A second pass reads the file, also in another run; other weights are computed anew."""
    from dovetail.runtime import forward
    from dovetail_trainer.data import encode_rows
    from dovetail_trainer.layouts import pair

    passes, real = [], forward.forward_all
    monkeypatch.setattr(forward, "forward_all", lambda *given: passes.append(len(given[1])) or real(*given))
    cache, policy = str(tmp_path / "deep" / "cache.sqlite"), agent()
    rows = encode_rows(letters(4), policy, pair)
    first = cached_logprobs(policy, rows.select([0, 1, 2, 3]), cache)
    second = cached_logprobs(agent(), rows, cache)
    assert passes == [4, 4]
    assert second.select([0, 1, 2, 3]).values.tolist() == first.values.tolist()
    assert cached_logprobs(policy, rows, cache).values.tolist() == second.values.tolist()
    assert torch.allclose(second.values, real(policy, rows, ("logprobs",), 4096)["logprobs"].values)
    assert cached_logprobs(agent(seed=3), rows, cache).values.tolist() != second.values.tolist()
    assert passes == [4, 4, 8]


def test_a_cache_that_is_no_cache_is_refused(tmp_path):
    """The error names the file."""
    from dovetail_trainer.data import encode_rows
    from dovetail_trainer.layouts import pair

    path = tmp_path / "cache.sqlite"
    path.write_text("something else that is long enough to be read as a database header, and is none")
    with pytest.raises(DataError, match=r"cache\.sqlite cannot be used"):
        cached_logprobs(agent(), encode_rows(letters(2), agent(), pair), str(path))


def test_a_cached_step_is_the_same_step(tmp_path):
    """Loss with and without the file."""
    losses = []
    for cache in (None, str(tmp_path / "cache.sqlite"), str(tmp_path / "cache.sqlite")):
        policy = agent()
        compiled, batch = compiled_and_rows("dpo", letters(4), policy, ref_cache=cache)
        losses.append([compiled.run(**batch)["loss"] for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] == losses[2]


def test_one_answer_cannot_be_compared():
    """A group of one is refused before anything runs."""
    with pytest.raises(RecipeError, match="samples is 1"):
        dt.recipes["online-dpo"](samples=1).trace()


def test_rows_without_a_label_are_told():
    """Demonstrations are no preferences."""
    from dovetail_trainer.data import encode_rows

    policy = agent()
    compiled, _ = compiled_and_rows("dpo", letters(2), policy)
    demonstrations = encode_rows([{"prompt": "x", "completion": "a"}], policy)
    with pytest.raises(DataError, match="no column 'label'"):
        compiled.run(pairs=demonstrations)
