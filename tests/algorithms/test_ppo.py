"""Proximal policy optimisation equals a plain loop, shares what it may, and refuses what cannot work."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from parts_of_tests import lowercase, tiny_policy

import dovetail as dt

PROMPTS = ["1+1=", "a much longer prompt", "zz"]
SHORT = dt.Sampling(max_tokens=6)
SGD = dt.OptimizerSettings(use="torch.optim.SGD", lr=0.3)


def token_logprobs(model, sequence, count):
    """Of the last ``count`` tokens of one sequence; no padding."""
    logits = model(sequence[None]).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, sequence[1:, None]).squeeze(-1)[-count:]


def token_values(model, head, sequence, count):
    """Of the states before the last ``count`` tokens, and of the state after the last one."""
    hidden = model.base_model(sequence[None]).last_hidden_state[0]
    return head(hidden[-count - 1 :]).squeeze(-1)


def plain_gae(score, kl, values, is_cut, gamma, lam, kl_coef, bootstrap):
    """The recursion of Schulman et al. 2016 on one completion, from its end."""
    advantages, running = [], torch.zeros((), dtype=torch.float64)
    for t in reversed(range(len(kl))):
        following = values[t + 1] if t + 1 < len(kl) or (is_cut and bootstrap) else 0.0
        reward = -kl_coef * kl[t] + (score if t + 1 == len(kl) else 0.0)
        running = reward + gamma * following - values[t] + gamma * lam * running
        advantages.insert(0, running)
    return torch.stack(advantages)


def plain_ppo(policy, reference, critic, head, rollouts, *, epochs, options, rate):
    """Both losses as the reference implementation of PPO has them (Stiennon et al. 2020), token means over the batch."""
    rows = [(tokens, len(rollouts.sampled[i])) for i, tokens in enumerate(rollouts.tokens)]
    scores = rollouts.rewards["lowercase"].values.double()
    with torch.no_grad():
        old = [token_logprobs(policy, *row) for row in rows]
        kl = [lp - token_logprobs(reference, *row) for lp, row in zip(old, rows, strict=True)]
        old_values = [token_values(critic, head, *row) for row in rows]
        advantages = [
            plain_gae(scores[i], kl[i], old_values[i], rollouts.finish_reasons[i] == "length",
                      options["gamma"], options["lam"], options["kl_coef"], options["bootstrap"])
            for i in range(len(rows))
        ]  # fmt: skip
        returns = [a + v[:-1] for a, v in zip(advantages, old_values, strict=True)]
        flat = torch.cat(advantages)
        white = (flat - flat.mean()) / torch.sqrt(flat.var() + 1e-8)
    sides = {"policy": list(policy.parameters()), "critic": [*critic.parameters(), *head.parameters()]}
    learners = {name: torch.optim.SGD(side, lr=rate) for name, side in sides.items()}
    for _ in range(epochs):
        ratio = torch.exp(torch.cat([token_logprobs(policy, *row) for row in rows]) - torch.cat(old))
        gain = torch.minimum(ratio * white, ratio.clamp(1 - 0.2, 1 + 0.2) * white)
        values = torch.cat([token_values(critic, head, *row)[:-1] for row in rows])
        before, target = torch.cat([v[:-1] for v in old_values]), torch.cat(returns)
        near = before + (values - before).clamp(-0.2, 0.2)
        value_loss = 0.5 * torch.maximum((values - target) ** 2, (near - target) ** 2).mean()
        (-gain.mean() + options["vf_coef"] * value_loss).backward()
        for name, learner in learners.items():
            torch.nn.utils.clip_grad_norm_(sides[name], 1.0)
            learner.step()
            learner.zero_grad()


@pytest.mark.parametrize(("budget", "bootstrap"), [(1, False), (40, False), (40, True), (1 << 20, False)])
def test_ppo_equals_a_plain_loop(budget, bootstrap):
    """Weights of policy and value model after three epochs, float64, however the batch is cut."""
    small = {"dtype": "float64", "characters": "1+=z a", "optimizer": SGD}
    policy, critic = tiny_policy(**small), tiny_policy(head="value", seed=4, **small)
    torch.nn.init.normal_(critic.value_head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    reference = dt.Agent.tiny(hidden=16, layers=1, heads=2, seed=5, **small)
    options = {"gamma": 0.99, "lam": 0.9, "kl_coef": 0.05, "vf_coef": 0.5, "bootstrap": bootstrap}
    compiled = dt.compile(
        dt.recipes.ppo(samples=4, epochs=3, **options), policy=policy, ref_policy=reference, value_model=critic,
        rewards=[lowercase], settings=dt.TrainSettings(micro_batch_tokens=budget, sampling=SHORT),
    )  # fmt: skip
    plain, plain_critic, head = (copy.deepcopy(part) for part in (policy.model, critic.model, critic.value_head))
    collected = compiled.collect(prompts=PROMPTS, seed=3)
    assert set(collected.rollouts.finish_reasons) == {"stop", "length"}
    compiled.learn(collected)
    plain_ppo(plain, reference.model, plain_critic, head, collected.rollouts, epochs=3, options=options, rate=0.3)
    pairs = [(policy.model, plain), (critic.model, plain_critic), (critic.value_head, head)]
    for ours, theirs in pairs:
        for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=name)


def shared_run(mode="auto"):
    """One step with one model for both, and its metrics."""
    policy = tiny_policy(dtype="float64", head="value")
    compiled = dt.compile(
        dt.recipes.ppo(samples=2, epochs=2, kl_coef=0.0, vf_coef=0.5), policy=policy, value_model=policy,
        ref_policy=policy.frozen(), rewards=[lowercase], mode=mode, sampling=SHORT,
    )  # fmt: skip
    return policy, compiled, compiled.run(prompts=PROMPTS, seed=2)


def test_a_shared_model_learns_both_in_one_pass():
    """The inputs are one agent: one optimizer step an epoch, log-probs and values of one forward pass."""
    policy, compiled, metrics = shared_run()
    assert "common: value_model is the same as policy" in compiled.explain()
    assert policy.version == 2
    assert {"grad_norm", "loss/loss", "loss/value_loss"} <= metrics.keys()
    assert bool(policy.value_head.weight.detach().any())


def test_a_shared_model_takes_no_step_twice_in_eager_mode():
    """Both modes leave the same weights."""
    (fast, _, metrics), (slow, _, plain) = shared_run(), shared_run("eager")
    assert slow.version == 2
    assert plain["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    for name, parameter in slow.named_parameters().items():
        torch.testing.assert_close(parameter, fast.named_parameters()[name], rtol=1e-4, atol=1e-5)


def test_no_reference_is_needed_without_a_price():
    """``kl_coef`` 0 folds the reference away."""
    compiled = dt.compile(
        dt.recipes.ppo(kl_coef=0.0), policy=tiny_policy(), value_model=tiny_policy(head="value"), rewards=[lowercase]
    )
    assert "ref_logprobs" not in compiled.graph
    assert "fold: advantages leaves final_values, logprobs, ref_logprobs unused" in compiled.explain()


def test_value_pretraining_leaves_the_policy_alone():
    """In the first steps only the value model learns; then both do."""
    policy, critic = tiny_policy(), tiny_policy(head="value", seed=4)
    compiled = dt.compile(
        dt.recipes.ppo(samples=2, epochs=2, kl_coef=0.0, value_pretraining=2), policy=policy, value_model=critic,
        rewards=[lowercase], sampling=SHORT,
    )  # fmt: skip
    before = copy.deepcopy(policy.model.state_dict())
    for step in (1, 2):
        metrics = compiled.run(prompts=PROMPTS)
        assert (policy.version, critic.version) == (0, 2 * step)
        assert "policy/grad_norm" not in metrics
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())
    assert not policy.learning.optimizer.state
    compiled.run(prompts=PROMPTS)
    assert (policy.version, critic.version) == (2, 6)
    assert "(after 2 steps)" in str(dt.diff(dt.recipes.ppo, dt.recipes.ppo(value_pretraining=2)))


def trainer(folder, policy=None, **options):
    return dt.Trainer(
        dt.recipes.ppo(samples=2, epochs=2), run_dir=folder, sampling=SHORT, rewards=[dt.rewards.length(target=3)],
        environment=dt.environments.math(digits=1, final_answer="whole", symbolic=False),
        policy=policy or tiny_policy(head="value"), batch_size=2, checkpoint_every=1, **options,
    )  # fmt: skip


def test_a_value_model_that_is_not_given_is_the_policy(tmp_path):
    """If it has a value head; the run's configuration says no more, and a resume gives the same."""
    trainer(tmp_path / "whole").fit(3)
    trainer(tmp_path / "cut").fit(2)
    saved = {path.name for path in (tmp_path / "cut/checkpoints/step-000002").iterdir()}
    assert {"policy.safetensors", "policy.pt"} <= saved
    assert "value_model.safetensors" not in saved
    dt.Trainer.resume(tmp_path / "cut").fit(3)

    def metrics(name):
        return [json.loads(line)["metrics"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    assert metrics("cut") == metrics("whole")


def test_a_value_model_learns_without_being_told(tmp_path):
    """A loss compares its values with their targets; a reference is never trained."""
    run = trainer(tmp_path, tiny_policy(), agents={"value_model": dt.Agent.tiny(hidden=16, layers=1, head="value")})
    run.fit(1)
    assert run.agents["value_model"].version == 2
    assert not run.agents["ref_policy"].trainable


def test_a_value_model_without_a_head_is_refused(tmp_path):
    """Given or not, with the words that mend it."""
    with pytest.raises(dt.UserError, match="which is not given, and the policy has no value head") as error:
        trainer(tmp_path, tiny_policy())
    assert "policy: {head: value}" in error.value.hint
    with pytest.raises(dt.UserError, match="that agent has no value head"):
        trainer(tmp_path, tiny_policy(), agents={"value_model": tiny_policy()})


def test_a_value_model_with_another_tokenizer_is_refused(tmp_path):
    """Before anything is sampled: the first token that differs, and both ids."""
    other = dt.Agent.tiny(hidden=16, layers=1, heads=2, head="value", characters="0123456789+= az")
    run = trainer(tmp_path, tiny_policy(), agents={"value_model": other})
    told = "another tokenizer than the policy .*: the token 'a' is 13 for the policy and 16 for it"
    with pytest.raises(dt.UserError, match=told):
        run.fit(1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_values_that_are_not_finite_are_told():
    """The value model is named, not the estimator's result, and no weight has moved."""
    policy, critic = tiny_policy(), tiny_policy(head="value")
    with torch.no_grad():
        critic.value_head.bias.fill_(float("nan"))
    compiled = dt.compile(
        dt.recipes.ppo(kl_coef=0.0), policy=policy, value_model=critic, rewards=[lowercase], sampling=SHORT
    )
    with pytest.raises(dt.PartError, match="the value model gives values that are not finite, first in sequence 0"):
        compiled.run(prompts=PROMPTS)
    assert policy.version == critic.version == 0
