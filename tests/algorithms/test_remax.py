"""ReMax equals a plain loop, and what is scored beside a batch is not taken for the batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from parts_of_tests import lowercase, tiny_policy
from talkers import Talk

import dovetail as dt
from dovetail.registry import as_part
from dovetail.testing import tiny_rollouts

PROMPTS = ["1+1=", "a much longer prompt", "zz"]
SHORT = dt.Sampling(max_tokens=6)
SGD = dt.OptimizerSettings(use="torch.optim.SGD", lr=0.3)


def compiled_remax(policy, *, mode="auto", budget=1 << 20, reward=lowercase, **options):
    settings = dt.TrainSettings(micro_batch_tokens=budget, sampling=SHORT, max_invalid=0.7)
    return dt.compile(
        dt.recipes["remax"](**options), policy=policy, ref_policy=tiny_policy(seed=5, dtype="float64").frozen(),
        rewards=[reward], settings=settings, mode=mode,
    )  # fmt: skip


def greedily(agent, prompt):
    """The completion by argmax, a whole forward pass for each token, as text."""
    tokens = list(agent.tokenizer(prompt)["input_ids"])
    start, ends = len(tokens), {agent.tokenizer.eos_token_id}
    while len(tokens) < start + SHORT.max_tokens and not (len(tokens) > start and tokens[-1] in ends):
        tokens.append(int(agent.model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return agent.tokenizer.decode(tokens[start:], skip_special_tokens=True)


def token_logprobs(model, tokens, count):
    """Of the last ``count`` tokens of one sequence; no padding."""
    logits = model(tokens[None]).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, tokens[1:, None]).squeeze(-1)[-count:]


def plain_remax(model, reference, rollouts, baselines, kl_coef):
    """Algorithm 1 of Li et al. 2023 on each sequence: (reward - greedy reward - later penalties) times its scores."""
    total = 0.0
    for row, tokens in enumerate(rollouts.tokens):
        live = token_logprobs(model, tokens, len(rollouts.sampled[row]))
        with torch.no_grad():
            penalty = kl_coef * (live - token_logprobs(reference, tokens, len(live)))
        score = rollouts.rewards["lowercase"].values[row].double() - baselines[int(rollouts.groups[row])]
        for t in range(len(live)):
            total = total - (score - penalty[t:].sum()) * live[t]
    return total / len(rollouts)


@pytest.mark.parametrize(("samples", "budget", "kl_coef"), [(1, 1 << 20, 0.0), (4, 1 << 20, 0.1), (4, 1, 0.1)])
def test_remax_equals_a_plain_loop(samples, budget, kl_coef):
    """Weights after one step, float64, however the batch is cut."""
    policy = tiny_policy(dtype="float64", optimizer=SGD)
    compiled = compiled_remax(policy, budget=budget, group_size=samples, kl_coef=kl_coef)
    plain = copy.deepcopy(policy.model)
    baselines = lowercase([greedily(policy, prompt) for prompt in PROMPTS])
    collected = compiled.collect(prompts=PROMPTS, seed=3)
    metrics = compiled.learn(collected)
    assert metrics["greedy_rewards"] == pytest.approx(sum(baselines) / 3, rel=1e-6)
    reference = compiled.plan.context.agents["ref_policy"].model
    loss = plain_remax(plain, reference, collected.rollouts, baselines, kl_coef)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.optim.SGD(plain.parameters(), lr=0.3).step()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6, abs=1e-9)
    for (name, found), expected in zip(policy.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_what_is_scored_beside_is_not_the_reward_of_the_batch():
    """Rewards, their metrics and the rollouts are those of the samples, also where both batches have as many rows."""
    seen = []

    def first(texts, finish_reasons, rollouts):
        seen.append(rollouts.sampling.temperature)
        return [rollouts.sampling.temperature for _ in texts]

    collected = compiled_remax(tiny_policy(), reward=first).collect(prompts=PROMPTS)
    assert sorted(seen) == [0.0, 1.0]
    assert collected.rollouts.rewards["first"].values.tolist() == [1.0, 1.0, 1.0]
    assert (collected.metrics["reward"], collected.metrics["greedy_rewards"]) == (1.0, 0.0)
    assert collected.metrics["reward/first"] == 1.0


@pytest.mark.parametrize("samples", [1, 2])
def test_a_prompt_whose_greedy_completion_has_no_score_teaches_nothing(samples):
    """All its samples are left out and counted; a failed baseline is never a silent 0."""

    def broken(rollouts, texts):
        greedy = rollouts.sampling.greedy
        return [dt.Invalid("no") if greedy and task.id == "1" else 0.5 for task in rollouts.tasks]

    collected = compiled_remax(tiny_policy(), reward=broken, group_size=samples).collect(prompts=PROMPTS)
    assert collected.valid.tolist() == [row // samples != 1 for row in range(3 * samples)]
    assert collected.metrics["invalid"] == pytest.approx(1 / 3)
    assert collected.rollouts.rewards["broken"].valid.all()


def test_compiled_equals_eager():
    """Loss and metrics."""

    def run(mode):
        metrics = compiled_remax(tiny_policy(dtype="float64"), mode=mode, group_size=2).run(prompts=PROMPTS)
        return {key: value for key, value in metrics.items() if not key.startswith("time/")}

    assert run("auto") == pytest.approx(run("eager"), rel=1e-6, abs=1e-9)


def test_a_reward_is_asked_for_one_batch_at_a_time():
    """It may keep a state, and two batches are scored in a step."""
    busy, most = [], []

    def stateful(texts):
        busy.append(1)
        most.append(len(busy))
        torch.zeros(200, 200) @ torch.zeros(200, 200)
        busy.pop()
        return [0.0 for _ in texts]

    compiled_remax(tiny_policy(), reward=stateful).collect(prompts=PROMPTS)
    assert most == [1, 1]


def test_samples_that_train_are_written_with_their_own_rewards(tmp_path):
    """The run's rollouts are those of the batch."""
    trainer = dt.Trainer(
        "remax", policy=tiny_policy(), environment=dt.environments.math(digits=1, final_answer="whole", symbolic=False),
        run_dir=tmp_path, sampling=dt.Sampling(max_tokens=3), batch_size=4, rollouts_every=1,
    )  # fmt: skip
    trainer.fit(1)
    assert trainer.compiled.plan.is_beside(trainer.compiled.graph["greedy_rewards"])
    assert len((tmp_path / "rollouts/step-000001.jsonl").read_text().splitlines()) == 4


def test_an_episode_of_many_turns_is_measured_by_a_greedy_one(tmp_path):
    """Of the same task, played to its end by itself; all tokens of an episode get its reward less the greedy one's."""
    tasks = Talk().tasks("train")[:3]
    compiled = dt.compile(
        "remax", policy=tiny_policy(characters=None, context=512), environment=as_part("environments", Talk()),
        sampling=dt.Sampling(max_tokens=4), group_size=2,
    )  # fmt: skip
    collected = compiled.collect(prompts=tasks)
    samples, greedy = collected.rollouts, collected.values["greedy"]["out"]
    assert len(samples) == 6
    assert [task.id for task in greedy.tasks] == [task.id for task in tasks]
    assert max(len(row) for row in samples.steps) > 1
    baselines = collected.outputs("greedy_rewards")["out"].values
    rewards = samples.rewards["talk"].values
    expected = rewards - baselines[samples.groups]
    credit = collected.outputs("advantages")["out"]
    for row, advantages in enumerate(credit):
        assert advantages.tolist() == pytest.approx([expected[row].item()] * len(advantages))
    assert math.isfinite(compiled.learn(collected)["loss"])


def test_scores_of_prompts_go_to_their_samples():
    """By the group of each row."""
    from dovetail_reinforce.recipes import for_each_sample

    rollouts = tiny_rollouts(lengths=[1, 2, 1, 2], group_size=2)
    found = for_each_sample(dt.Scores.ok(torch.tensor([1.0, 2.0])), rollouts)
    assert found.values.tolist() == [float(group) + 1 for group in rollouts.groups.tolist()]
