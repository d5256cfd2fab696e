"""Rollouts that a recipe builds turn by turn."""

from __future__ import annotations

import pytest
import torch
from talkers import TEMPLATES, Babbler

import dovetail as dt
from dovetail.errors import DataError, RecipeError
from dovetail.rollouts import Origin

ASKS = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'


@dt.op
async def every_second_row(requests: list, texts: list) -> list:
    """Answers the even rows; the odd ones end."""
    return [
        f"answer {len(text)} {len(calls)}" if row % 2 == 0 else None
        for row, (calls, text) in enumerate(zip(requests, texts, strict=True))
    ]


@dt.rewards.register("told")
class Told:
    """How many characters a text has."""

    @dt.hookimpl
    def score(self, texts):
        return torch.tensor([float(len(text)) for text in texts])


@dt.losses.register("pushed")
class Pushed:
    """Minus the advantage times the log-prob."""

    @dt.hookimpl
    def loss_terms(self, logprobs, advantages):
        return dt.LossTerms(-logprobs * advantages)


@dt.advantage_estimators.register("as-they-are")
class AsTheyAre:
    """The rewards."""

    @dt.hookimpl
    def estimate(self, rewards):
        return dt.Advantages(rewards)


def push(policy, prompts, rollout, rewards):
    logprobs = dt.logprobs(policy, prompts, rollout)
    dt.set_loss(dt.loss("pushed", logprobs, dt.advantages("as-they-are", rewards)))


@dt.recipe
def in_two_steps(policy, prompts, *, group_size=2):
    draft = dt.generate_step(policy, prompts, samples=group_size, max_tokens=8, name="draft")
    answers = every_second_row(draft.tool_requests, draft.text)
    final = dt.generate_step(policy, draft.history, answers, max_tokens=4, name="final")
    rollout = dt.structure_rollout(draft, final, rewards=[dt.reward("told", rollout=draft), None])
    rewards = dt.run_rewards(rollout) + 0.5 * dt.reward("told", rollout=draft, name="of_draft")
    push(policy, prompts, rollout, rewards)


@pytest.fixture(scope="module")
def agent(agent_of):
    return agent_of(*TEMPLATES["chatml"], Babbler())


def collected(agent, recipe=in_two_steps, prompts=("one", "two", "three"), seed=0):
    compiled = dt.compile(recipe, policy=agent, rewards=[dt.rewards["told"]()])
    return compiled.collect(prompts=list(prompts), seed=seed)


def test_steps_make_one_rollout(agent):
    """Its tokens are the conversation as the template shows it, its sampled ones those of the steps, in their order."""
    found = collected(agent)
    whole, draft, final = found.rollouts, found.values["draft"]["out"], found.values["final"]["out"]
    assert len(whole) == 6
    assert whole.groups.tolist() == [0, 0, 1, 1, 2, 2]
    for row in range(6):
        drafted, finished = draft.sampled.tolist()[row], final.sampled.tolist()[row]
        assert whole.sampled.tolist()[row] == drafted + finished
        assert bool(finished) == (row % 2 == 0)
        assert whole.steps.tolist()[row] == ([0, len(drafted)] if finished else [0])
        assert draft.tokens.tolist()[row] == whole.tokens.tolist()[row][: len(draft.tokens.tolist()[row])]
    text = agent.tokenizer.decode(whole.tokens.tolist()[0])
    assert f"<|im_start|>user\nanswer {len(draft.texts[0])} 0<|im_end|>" in text
    assert [message.role for message in whole.messages[0]] == ["user", "assistant", "user", "assistant"]
    torch.testing.assert_close(
        whole.sampled_logprobs[0], torch.cat([draft.sampled_logprobs[0], final.sampled_logprobs[0]])
    )


def test_rewards_look_at_a_step_or_at_the_whole(agent):
    """And one that is a step's own stands beside its turn."""
    found = collected(agent)
    whole, draft = found.rollouts, found.values["draft"]["out"]
    lengths = torch.tensor([float(len(text)) for text in draft.texts])
    torch.testing.assert_close(found.values["of_draft"]["out"].values, lengths)
    assert whole.step_rewards.tolist() == [
        [length, 0.0][: len(turns)] for length, turns in zip(lengths.tolist(), whole.steps.tolist(), strict=True)
    ]


def test_the_same_seed_gives_the_same_rollouts(agent):
    """And another seed others."""
    first, again, other = (collected(agent, seed=seed).rollouts.tokens.tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_it_learns():
    """A step of a policy that trains: its tokens counted, its loss finite."""
    dt.generators.register("babbler", Babbler)
    policy = dt.Agent.tiny(hidden=16, layers=1, heads=2, context=256, generator="babbler", trainable=True)
    metrics = dt.compile(in_two_steps, policy=policy, rewards=[dt.rewards["told"]()]).run(prompts=["1+1=", "2+2="])
    assert metrics["tokens"] > 4
    assert metrics["loss"] > 0


def test_a_tool_answers_the_call_that_was_made(agent_of):
    """Its text becomes a tool message with the call's id, and its tokens are the tool's."""

    @dt.op
    def add(requests: list) -> list:
        return [[f"= {call.arguments}" for call in calls] for calls in requests]

    @dt.recipe
    def with_tool(policy, prompts):
        draft = dt.generate_step(policy, prompts, max_tokens=200, name="draft")
        final = dt.generate_step(policy, draft.history, add(draft.tool_requests), max_tokens=200, name="final")
        rollout = dt.structure_rollout(draft, final)
        dt.set_loss(
            dt.loss(
                "pushed", dt.logprobs(policy, prompts, rollout), dt.advantages("as-they-are", dt.run_rewards(rollout))
            )
        )

    whole = collected(agent_of(*TEMPLATES["chatml"], Babbler(words=ASKS)), with_tool, ["one"]).rollouts
    answer = whole.messages[0][2]
    assert (answer.role, answer.tool_call_id, answer.content) == ("tool", "call_0", '= {"a": 1, "b": 2}')
    assert Origin.TOOL in whole.origin.values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p, x: dt.generate_step(p, dt.generate_step(p, x, name="a"), name="b"), "pass a.history"),
        (
            lambda p, x: dt.generate_step(p, dt.generate_step(p, x, name="a").history),
            "needs to know what they are told",
        ),
        (lambda p, x: dt.generate_step(p, x, call_format="hermse"), "did you mean 'hermes'"),
        (lambda p, x: dt.structure_rollout(dt.generate(p, x, name="a")), "'a' is no step"),
        (lambda p, x: dt.structure_rollout(), "at least one step"),
        (
            lambda p, x: dt.structure_rollout(dt.generate_step(p, x), dt.generate_step(p, x, name="b")),
            "'b' does not go on",
        ),
        (lambda p, x: dt.generate_step(p, x, temprature=1.0), "temperature"),
    ],
)
def test_what_does_not_fit_is_told_with_the_line(wrong, message):
    """Where the recipe is traced, before anything is sampled."""

    @dt.recipe
    def recipe(policy, prompts):
        wrong(policy, prompts)

    with pytest.raises(RecipeError) as caught:
        recipe.trace()
    assert message in str(caught.value)
    assert "test_structured.py" in str(caught.value)


def test_a_response_for_each_row_is_needed(agent):
    """The error says how many there are."""

    @dt.op
    def none(texts: list) -> list:
        return texts[:-1]

    @dt.recipe
    def short(policy, prompts):
        draft = dt.generate_step(policy, prompts, name="draft")
        final = dt.generate_step(policy, draft.history, none(draft.text), name="final")
        rollout = dt.structure_rollout(draft, final)
        dt.set_loss(
            dt.loss(
                "pushed", dt.logprobs(policy, prompts, rollout), dt.advantages("as-they-are", dt.run_rewards(rollout))
            )
        )

    with pytest.raises(DataError, match="3 conversations need as many responses, got 2"):
        collected(agent, short)
