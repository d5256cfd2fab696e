"""Tokens in, tokens out: what is trained on is what was sampled, and the rest is what the template says."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from talkers import CHATML, FORGETFUL, TEMPLATES, Babbler, Talk

import dovetail as dt
from dovetail.errors import DataError
from dovetail.messages import Tasks
from dovetail.registry import as_part
from dovetail.rollouts import Origin
from dovetail.runtime.scoring import Offloader
from dovetail_episodes.driver import Driver


def play(agent, environment, tasks=20, samples=1, seed=0, max_tokens=8, **episodes):
    part = as_part("environments", environment)
    driver = Driver(part, dt.TrainSettings(episodes=episodes))
    chosen = Tasks(part.call("tasks", {"split": "train"})[:tasks])
    with contextlib.closing(Offloader()) as offloader:
        return driver.play(agent, chosen, samples, dt.Sampling(max_tokens=max_tokens), seed, offloader)["out"]


def rendered(agent, messages, tools):
    """The whole conversation as the template writes it, up to the policy's last word."""
    chat = [message.to_chat() for message in messages[:-1]]
    shown = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
    before = agent.tokenizer.apply_chat_template(chat, tools=shown, add_generation_prompt=True, tokenize=False)
    return before + messages[-1].content


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_decode_to_the_conversation(agent_of, name):
    """Over a thousand random episodes with three templates; every token is the sampler's, a tool's, or the template's."""
    template, end = TEMPLATES[name]
    agent = agent_of(template, end, Babbler())
    rollouts = play(agent, Talk(), tasks=50, samples=7)
    assert len(rollouts) == 350
    for row, messages in enumerate(rollouts.messages):
        tokens, origin = rollouts.tokens[row], rollouts.origin[row]
        text = agent.tokenizer.decode(tokens, skip_special_tokens=False)
        assert text.removesuffix(end) == rendered(agent, messages, [dt.ToolSpec("look", "")])
        said = [message.content for message in messages if message.role == "assistant"]
        starts = [*rollouts.steps[row].tolist(), len(rollouts.sampled[row])]
        turns = [rollouts.sampled[row][a:b].tolist() for a, b in itertools.pairwise(starts)]
        assert [agent.decode(turn) for turn in turns] == said
        heard = [m.content for m in messages if m.role == "tool"]
        from_tools = agent.tokenizer.decode(tokens[origin == Origin.TOOL])
        assert all(content in from_tools for content in heard)
        assert (origin[: len(rollouts.prompts[row])] == Origin.PROMPT).all()
    assert torch.equal(rollouts.sampled_mask, rollouts.origin.values == Origin.SAMPLED)
    assert len(rollouts.sampled_logprobs.values) == int(rollouts.sampled_mask.sum())


def test_what_was_sampled_is_never_tokenised_again(agent_of):
    """The babbler joins tokens that no tokenizer would; they come back as they were, with their log-probs."""
    agent = agent_of(*TEMPLATES["chatml"], Babbler())
    rollouts = play(agent, Talk(), samples=4)
    again = [agent.tokenizer(text, add_special_tokens=False)["input_ids"] for text in rollouts.texts]
    assert any(ours != theirs for ours, theirs in zip(rollouts.completions.tolist(), again, strict=True))
    expected = -(rollouts.sampled.values % 7) / 10
    assert torch.allclose(rollouts.sampled_logprobs.values, expected.float())


def test_a_cut_turn_is_closed_by_tokens_without_loss(agent_of):
    """The template's end of a turn is FORCED where the policy did not sample it."""
    agent = agent_of(*TEMPLATES["chatml"], Babbler(words="so it goes on and on and on"))
    rollouts = play(agent, Talk(turns=3), tasks=4, max_tokens=5)
    end = agent.tokenizer.eos_token_id
    for row in range(len(rollouts)):
        forced = rollouts.tokens[row][rollouts.origin[row] == Origin.FORCED].tolist()
        assert forced.count(end) == len(rollouts.steps[row]) - 1
        assert end not in rollouts.sampled[row].tolist()
    assert set(rollouts.finish_reasons) == {"length"}


def test_without_a_template_contents_are_joined(agent_of):
    """And each turn of the policy ends with the end token, sampled or forced."""
    agent = agent_of(None, "<|eot|>", Babbler())
    rollouts = play(agent, Talk(), tasks=10)
    for row, messages in enumerate(rollouts.messages):
        text = agent.tokenizer.decode(rollouts.tokens[row], skip_special_tokens=False)
        joined = "".join(m.content + ("<|eot|>" if m.role == "assistant" else "") for m in messages)
        assert text.removesuffix("<|eot|>") == joined.removesuffix("<|eot|>")


def test_a_template_that_rewrites_earlier_turns_is_an_error_with_both_sides(agent_of):
    """Unless the run says that the tokens are to be kept as they were sampled."""
    agent = agent_of(FORGETFUL, "<|im_end|>", Babbler(words="<think>hm</think>yes"))
    chatty = Talk(turns=4, roles=("user",))
    with pytest.raises(DataError, match="rewrites earlier turns") as error:
        play(agent, chatty, max_tokens=64)
    assert "<think>hm" in error.value.where[0]
    assert "rewrites: keep" in error.value.hint
    kept = play(agent, chatty, max_tokens=64, rewrites="keep")
    assert all("<think>" in text for text in kept.texts)


def test_a_template_that_refuses_the_conversation_is_an_error(agent_of):
    """It says which roles it was given."""
    refusing = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    )
    agent = agent_of(refusing + CHATML, "<|im_end|>", Babbler())
    with pytest.raises(DataError, match="refuses the conversation: no tools") as error:
        play(agent, Talk(turns=6, roles=("tool",)))
    assert "tool" in error.value.where[0]
