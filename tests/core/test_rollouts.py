"""Rollouts know where every token came from."""

import pytest
import torch

import dovetail as dt
from dovetail.rollouts import Origin, RewardStatus
from dovetail.testing import tiny_rollouts

P, S, T = Origin.PROMPT, Origin.SAMPLED, Origin.TOOL


def multi_turn() -> dt.Rollouts:
    tokens = dt.Ragged.from_rows([[1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11]])
    origin = dt.Ragged.from_rows([[P, P, S, T, P, S], [P, P], [P, S, S]], dtype=torch.uint8)
    return dt.Rollouts(tokens, origin, torch.tensor([0, 0, 1]), dt.Tasks([dt.Task.of("a")] * 3))


def test_prompt_and_completion_split_at_the_first_token_that_is_no_prompt():
    """Later prompt and tool tokens belong to the completion."""
    rollouts = multi_turn()
    assert rollouts.prompts.tolist() == [[1, 2], [7, 8], [9]]
    assert rollouts.completions.tolist() == [[3, 4, 5, 6], [], [10, 11]]


def test_the_loss_mask_is_derived():
    """Sampled tokens are those of origin SAMPLED, wherever they stand."""
    rollouts = multi_turn()
    assert rollouts.sampled.tolist() == [[3, 6], [], [10, 11]]
    assert rollouts.mask.tolist() == [[True, False, False, True], [], [True, True]]


def test_select_takes_everything_along():
    """Rows keep their groups, tasks, log-probs, scores and reasons."""
    rollouts = tiny_rollouts()
    scores = dt.Scores(torch.arange(8.0), torch.tensor([0] * 5 + [1] + [0] * 2, dtype=torch.uint8), {5: "broken"})
    picked = rollouts.with_rewards(a=scores).select([5, 0])
    assert picked.completions.tolist() == [rollouts.completions.tolist()[5], rollouts.completions.tolist()[0]]
    assert picked.groups.tolist() == [1, 0]
    assert picked.tasks[0].id == "1"
    assert picked.rewards["a"].reasons == {0: "broken"}
    assert picked.truncated.tolist() == [True, False]
    assert picked.sampled_logprobs.lengths.tolist() == [7, 5]


def test_texts_and_messages_are_decoded_on_demand():
    """texts hold the completions, messages the conversation."""
    rollouts = tiny_rollouts(lengths=(2, 1), group_size=2)
    assert [len(text) for text in rollouts.texts] == [2, 1]
    assert rollouts.messages[0][-1] == dt.Message("assistant", rollouts.texts[0])
    with pytest.raises(dt.DataError, match="no tokenizer"):
        _ = multi_turn().texts


def test_sizes_are_checked():
    """Tokens, origins, groups and tasks must fit each other."""
    tokens = dt.Ragged.from_rows([[1, 2]])
    with pytest.raises(dt.DataError, match="origin"):
        dt.Rollouts(tokens, dt.Ragged.from_rows([[1]]), torch.zeros(1), dt.Tasks([dt.Task.of("a")]))
    with pytest.raises(dt.DataError, match="groups and tasks"):
        dt.Rollouts(tokens, tokens, torch.zeros(2), dt.Tasks([dt.Task.of("a")]))


def test_an_unknown_task_column_names_the_near_miss():
    """The error says which task lacks what."""
    tasks = dt.Tasks([dt.Task("7", (dt.Message("user", "q"),), answer="4", columns={"level": "easy"})])
    assert tasks["answer"] == ["4"]
    assert tasks["level"] == ["easy"]
    with pytest.raises(dt.DataError) as error:
        tasks["levl"]
    assert str(error.value) == "task '7' has no column 'levl'\n  try: did you mean 'level'?"


def test_scores_are_valid_only_together():
    """Arithmetic on scores keeps the first reason and combines validity."""
    good = dt.Scores.ok(torch.tensor([1.0, 2.0]))
    bad = dt.Scores.failed(2, "slow", RewardStatus.TIMEOUT)
    total = good.combine(bad, lambda a, b: a + b)
    assert total.status.tolist() == [2, 2]
    assert total.reasons == {0: "slow", 1: "slow"}
    assert good.combine(3.0, lambda a, b: a * b).values.tolist() == [3.0, 6.0]


def test_messages_become_chat_dictionaries():
    """Absent fields are left out, tool calls are spelled as chat templates read them."""
    call = dt.ToolCall("1", "add", "{}")
    assert dt.Message("user", "hi").to_chat() == {"role": "user", "content": "hi"}
    chat = dt.Message("assistant", "", tool_calls=(call,), name="a").to_chat()
    assert chat["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}
    assert dt.Message("tool", "4", tool_call_id="1").to_chat()["tool_call_id"] == "1"
    assert dt.Task.of("text").messages == (dt.Message("user", "text"),)
    assert dt.Task.of([dt.Message("user", "x")]).messages[0].content == "x"


def test_sampling_tells_what_it_does():
    """greedy, truncates and the scoring temperature follow from the parameters."""
    assert dt.Sampling(temperature=0).greedy
    assert dt.Sampling(temperature=0).scoring_temperature == 1.0
    assert dt.Sampling(top_p=0.9).truncates
    assert not dt.Sampling().truncates
    with pytest.raises(ValueError, match="top_p"):
        dt.Sampling(top_p=0)
