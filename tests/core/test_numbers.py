"""Loss and gradients are those of a straightforward implementation, however the batch is cut."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts_of_tests import lowercase, tiny_policy

import dovetail as dt
from dovetail.runtime.linear_logprob import Head, linear_logprob
from dovetail.runtime.packing import cut
from dovetail.runtime.reduce import StepCounts, reduce_terms
from dovetail_trainer.data import encode_rows

BUDGETS = (1, 25, 40, 90, 1 << 20)
PROMPTS = ["1+1=", "a much longer prompt", "zz"]


def gradients(agent) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in agent.named_parameters().items() if p.grad is not None}


def assert_same(left, right, relative=1e-6):
    assert left.keys() == right.keys()
    scale = max(float(gradient.norm()) for gradient in right.values())
    for name, gradient in left.items():
        assert float((gradient - right[name]).norm()) <= relative * scale, name


def naive_logprobs(model, sequence: torch.Tensor) -> torch.Tensor:
    """Log-prob of each token of one sequence from the second on; no padding, no chunks."""
    logits = model(sequence[None]).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(-1, sequence[1:, None]).squeeze(-1)


@pytest.mark.parametrize("budget", BUDGETS)
def test_grpo_equals_a_plain_loop(budget):
    """Loss and gradients, float64, five ways of cutting."""
    policy = tiny_policy(dtype="float64")
    reference = dt.Agent.tiny(hidden=16, layers=1, heads=2, seed=5, dtype="float64")
    options = {"beta": 0.05, "entropy_coef": 0.0, "clip_high": 0.28}
    compiled = dt.compile(
        dt.recipes["grpo"], policy=policy, ref_policy=reference, rewards=[lowercase], group_size=4,
        settings=dt.TrainSettings(micro_batch_tokens=budget, sampling=dt.Sampling(max_tokens=9)), **options,
    )  # fmt: skip
    collected = compiled.collect(prompts=PROMPTS, seed=3)
    metrics = compiled.learn(collected, update=False)
    found = gradients(policy)

    rollouts = collected.rollouts
    # Rewards are float32 by contract; from there on the reference is float64.
    rewards = rollouts.rewards["lowercase"].values.view(3, 4)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten().double()
    policy.zero_grad()
    tokens = sum(len(row) for row in rollouts.sampled)
    loss = torch.zeros((), dtype=torch.float64)
    for row, sequence in enumerate(rollouts.tokens):
        count = len(rollouts.sampled[row])
        logprobs = naive_logprobs(policy.model, sequence)[-count:]
        with torch.no_grad():
            gap = naive_logprobs(reference.model, sequence)[-count:]
        gap = gap - logprobs
        ratio = torch.exp(logprobs - logprobs.detach())
        gain = torch.minimum(ratio * advantages[row], ratio.clamp(0.8, 1.28) * advantages[row])
        loss = loss + (-gain + 0.05 * (gap.exp() - gap - 1)).sum() / tokens
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6, abs=1e-7)
    assert_same(found, gradients(policy), 1e-6)


@pytest.mark.parametrize("budget", BUDGETS)
def test_sft_equals_a_plain_loop(budget):
    """Completion-only loss and gradients, float64, five ways of cutting."""
    policy = tiny_policy(dtype="float64")
    rows = [{"prompt": f"{i}+{i}=", "completion": str(2 * i) * (i + 1)} for i in range(5)]
    compiled = dt.compile(dt.recipes["sft"], policy=policy, settings=dt.TrainSettings(micro_batch_tokens=budget))
    collected = compiled.collect(demonstrations=encode_rows(rows, policy))
    metrics = compiled.learn(collected, update=False)
    found = gradients(policy)

    policy.zero_grad()
    tokenizer, losses = policy.tokenizer, []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        target = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        losses.append(-naive_logprobs(policy.model, torch.tensor([*prompt, *target]))[-len(target) :])
    loss = torch.cat(losses).mean()
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-9)
    assert_same(found, gradients(policy), 1e-6)


@dt.algorithm(using=dt.recipes["grpo"])
def with_critic(graph, value_model):
    values = dt.values(value_model, graph.prompts, graph.completions)
    graph.advantages.replace_with(dt.advantages("gae", graph.rewards, values))
    dt.add_loss(dt.loss("value", values, graph.rewards))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (dt.recipes["grpo"], {"beta": 0.1, "entropy_coef": 0.01}),
        (dt.recipes["grpo"], {"reduction": "sequence_mean", "kl_estimator": "k2", "beta": 0.1}),
        (dt.recipes["grpo"], {"reduction": "prompt_mean", "correction": "truncate", "combine": "normalize_then_sum"}),
        (with_critic, {"reduction": "sequence_sum_norm", "norm": 12.0}),
    ],
)
def test_compiled_equals_eager(recipe, options):
    """Loss, metrics and gradients of the compiled run are those of node-by-node execution."""
    results = []
    for mode in ("auto", "eager"):
        policy, critic = tiny_policy(dtype="float64"), tiny_policy(dtype="float64", head="value", seed=4)
        agents = {"value_model": critic} if recipe is with_critic else {}
        compiled = dt.compile(
            recipe, policy=policy, ref_policy=policy.frozen(), rewards=[lowercase], group_size=4, mode=mode,
            settings=dt.TrainSettings(micro_batch_tokens=40, sampling=dt.Sampling(max_tokens=9)), **agents, **options,
        )  # fmt: skip
        collected = compiled.collect(prompts=PROMPTS, seed=3)
        metrics = compiled.learn(collected, update=False)
        numbers = {name: value for name, value in metrics.items() if not name.startswith("time/")}
        results.append((numbers, {**gradients(policy), **{f"critic.{k}": v for k, v in gradients(critic).items()}}))
    (fast, fast_gradients), (slow, slow_gradients) = results
    assert fast == pytest.approx(slow, rel=1e-6, abs=1e-9)
    assert_same(fast_gradients, slow_gradients)


def test_several_epochs_and_minibatches_take_old_logprobs_once():
    """With more than one optimizer step the frozen pass exists, and ratios move away from 1."""
    policy = tiny_policy()
    compiled = dt.compile(
        dt.recipes["grpo"], policy=policy, rewards=[lowercase], group_size=4, epochs=2, minibatches=3,
        sampling=dt.Sampling(max_tokens=9),
    )  # fmt: skip
    assert "policy_logprobs@old" in [node.name for node in compiled.plan.collect]
    metrics = compiled.run(prompts=PROMPTS)
    assert metrics["clipped/ratio"] != pytest.approx(1.0, abs=1e-4)
    assert policy.version == 6


def test_masked_truncated_rows_leave_the_loss_but_not_the_baseline():
    """Their reward still enters the group; their tokens carry no gradient."""

    def run(mask_truncated):
        policy = tiny_policy(dtype="float64")
        chosen = dt.TrainSettings(mask_truncated=mask_truncated, sampling=dt.Sampling(max_tokens=3))
        compiled = dt.compile(dt.recipes["grpo"], policy=policy, rewards=[lowercase], group_size=4, settings=chosen)
        collected = compiled.collect(prompts=PROMPTS, seed=1)
        assert bool(collected.rollouts.truncated.any())
        return compiled.learn(collected, update=False), collected

    masked, collected = run(True)
    whole, same = run(False)
    assert torch.equal(collected.values["advantages"]["out"].values, same.values["advantages"]["out"].values)
    assert masked["loss"] != whole["loss"]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 100))
def test_cutting_keeps_every_row_and_the_budget(lengths, budget):
    """Every row is in one micro-batch; only a single row may exceed the budget."""
    batches = cut(torch.tensor(lengths), budget)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows.tolist()) <= budget


REDUCTIONS = {
    "token_mean": lambda rows, groups: sum(map(sum, rows)) / max(sum(map(len, rows)), 1),
    "sequence_mean": lambda rows, groups: mean([sum(row) / len(row) for row in rows if row]),
    "sequence_sum_mean": lambda rows, groups: mean([sum(row) for row in rows if row]),
    "sequence_sum_norm": lambda rows, groups: mean([sum(row) / 7.0 for row in rows if row]),
    "prompt_mean": lambda rows, groups: mean(
        [
            sum(chosen) / len(chosen)
            for group in sorted(set(groups))
            if (chosen := [value for row, g in zip(rows, groups, strict=True) if g == group for value in row])
        ]
    ),
}


def mean(values):
    return sum(values) / len(values) if values else 0.0


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-3, 3), max_size=5), min_size=1, max_size=6),
    st.sampled_from(sorted(REDUCTIONS)),
    st.integers(1, 12),
    st.data(),
)
def test_every_reduction_is_its_definition_however_cut(rows, reduction, budget, data):
    """Shares of micro-batches add up to the reduction of the whole."""
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    terms = dt.Ragged.from_rows(rows, dtype=torch.float64)
    counts = StepCounts(terms.lengths, torch.tensor(groups))
    norm = 7.0 if reduction == "sequence_sum_norm" else None
    shares = [
        reduce_terms(dt.LossTerms(terms.select(chosen), reduction, norm), counts, chosen)
        for chosen in cut(terms.lengths, budget)
    ]
    assert float(sum(shares)) == pytest.approx(REDUCTIONS[reduction](rows, groups), abs=1e-9)


def test_an_unknown_reduction_or_a_missing_norm_is_told():
    """Both name the reduction."""
    counts = StepCounts(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(dt.DovetailError, match="no reduction is called 'mean'"):
        counts.row_weights("mean", None)
    with pytest.raises(dt.DovetailError, match="needs a norm above 0"):
        counts.row_weights("sequence_sum_norm", None)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(
    "extras", [{}, {"bias": True}, {"scale": 0.5}, {"softcap": 3.0}, {"softcap": 3.0, "bias": True, "scale": 2.0}]
)
def test_linear_logprob_is_log_softmax(temperature, extras):
    """Values, entropies and all gradients equal autograd through full logits, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    hidden, weight = draw(23, 8), draw(40, 8)
    bias = draw(40) if extras.get("bias") else None
    targets = torch.randint(0, 40, (23,), generator=generator)
    upstream = torch.randn(23, 2, generator=generator, dtype=torch.float64)
    head = Head(weight, bias, extras.get("scale", 1.0), extras.get("softcap"))
    logprobs, entropy = linear_logprob(hidden, head, targets, temperature=temperature, chunk=5, entropy=True)
    inputs = [value for value in (hidden, weight, bias) if value is not None]
    ours = torch.autograd.grad((logprobs * upstream[:, 0] + entropy * upstream[:, 1]).sum(), inputs)

    logits = torch.nn.functional.linear(hidden, weight, bias) * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    full = torch.log_softmax(logits / temperature, -1)
    expected, expected_entropy = full.gather(-1, targets[:, None]).squeeze(-1), -(full.exp() * full).sum(-1)
    weighted = (expected * upstream[:, 0] + expected_entropy * upstream[:, 1]).sum()
    theirs = torch.autograd.grad(weighted, inputs, retain_graph=True)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, expected_entropy)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    only, none = linear_logprob(hidden, head, targets, temperature=temperature)
    assert none is None
    torch.testing.assert_close(
        torch.autograd.grad(only.sum(), weight)[0], torch.autograd.grad(expected.sum(), weight)[0]
    )


def test_gradient_checkpointing_and_bf16_run():
    """Checkpointing changes no number; autocast changes them a little."""
    losses = []
    for options in ({}, {"gradient_checkpointing": True}, {"autocast": "bfloat16"}):
        policy = tiny_policy(**options)
        rows = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "12+1=", "completion": "13"}]
        compiled = dt.compile(dt.recipes["sft"], policy=policy)
        losses.append(compiled.run(demonstrations=encode_rows(rows, policy))["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=0.05)


def test_the_trainer_scores_under_the_sampling_temperature():
    """Log-probs at learning equal the sampler's for any temperature."""
    policy = tiny_policy()
    compiled = dt.compile(
        dt.recipes["grpo"], policy=policy, rewards=[lowercase], group_size=2,
        sampling=dt.Sampling(max_tokens=6, temperature=0.7),
    )  # fmt: skip
    metrics = compiled.run(prompts=PROMPTS)
    assert metrics["kl_to_sampler"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["effective_sample_size"] == pytest.approx(1.0, abs=1e-4)


def test_settings_are_immutable_and_checked():
    """A batch of nothing is refused."""
    with pytest.raises(ValueError, match="batch_size"):
        dt.TrainSettings(batch_size=0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        dt.TrainSettings().seed = 3
