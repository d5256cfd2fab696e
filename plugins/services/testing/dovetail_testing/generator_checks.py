"""What every generator promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dovetail.messages import Task, Tasks
from dovetail.parts import Part
from dovetail.rollouts import Generated, Rollouts
from dovetail.runtime.forward import forward_all
from dovetail.sampling import Sampling
from dovetail_testing.samples import tiny_agent

_TEXTS = ("1+1=", "a longer prompt", "z")


def checks(_: Part) -> dict[str, Callable[[Part], None]]:
    return {
        "log-probs are the model's own": _logprobs_fit,
        "the same seeds give the same tokens": _is_deterministic,
        "stop tokens end a completion and limits hold": _stops,
        "the model is left as it was": _leaves_model,
    }


def sample(part: Part, sampling: Sampling, agent: Any = None, seed: int = 0) -> tuple[Any, Any, Generated]:
    """Agent, prompts and three completions of three prompts."""
    agent = agent or tiny_agent(generator=part)
    prompts = agent.encode([Task.of(text) for text in _TEXTS])
    seeds = torch.randint(0, 1 << 62, (len(_TEXTS) * 3,), generator=torch.Generator().manual_seed(seed))
    return agent, prompts, agent.generate(prompts, 3, sampling, seeds)


def _logprobs_fit(part: Part) -> None:
    tasks = Tasks([Task.of(text) for text in _TEXTS])
    for temperature, top_k in ((1.0, 0), (0.7, 5), (0.0, 0)):
        sampling = Sampling(max_tokens=12, temperature=temperature, top_k=top_k)
        agent, prompts, generated = sample(part, sampling)
        rollouts = Rollouts.single_turn(prompts, generated, tasks, samples=3, sampling=sampling)
        expected = forward_all(agent, rollouts, {"logprobs"}, 1 << 20)["logprobs"]
        assert torch.allclose(expected.values, generated.logprobs.values, atol=1e-4)


def _is_deterministic(part: Part) -> None:
    sampling = Sampling(max_tokens=12)
    agent, _, first = sample(part, sampling)
    _, _, second = sample(part, sampling, agent)
    _, _, other = sample(part, sampling, agent, seed=1)
    assert first.completions.tolist() == second.completions.tolist()
    assert first.completions.tolist() != other.completions.tolist()


def _stops(part: Part) -> None:
    agent = tiny_agent(generator=part)
    every_token = tuple(range(agent.model.config.vocab_size))
    _, _, one = sample(part, Sampling(max_tokens=5, stop_tokens=every_token), agent)
    assert one.completions.lengths.tolist() == [1] * 9
    assert set(one.finish_reasons) == {"stop"}
    _, _, most = sample(part, Sampling(max_tokens=5, min_tokens=5), agent)
    assert most.completions.lengths.tolist() == [5] * 9
    inner = torch.cat([row[:-1] for row in most.completions])
    assert agent.tokenizer.eos_token_id not in inner.tolist()
    _, _, all_room = sample(part, Sampling(max_tokens=500), agent)
    assert int((all_room.completions.lengths + 1).max()) <= agent.context


def _leaves_model(part: Part) -> None:
    agent = tiny_agent(generator=part)
    before = [parameter.detach().clone() for parameter in agent.model.parameters()]
    state = torch.get_rng_state()
    sample(part, Sampling(max_tokens=4), agent)
    assert all(torch.equal(old, new) for old, new in zip(before, agent.model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state()), "the global random state has moved"
