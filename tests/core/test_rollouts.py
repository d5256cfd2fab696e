"""Rollouts know where every token came from."""

import asyncio

import attrs
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
    with pytest.raises(dt.DataError, match="1 groups, got 2"):
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


def test_what_a_task_lacks_is_found_behind_the_first():
    """Every task of the batch is asked, and an id or an answer always is there."""
    plain, levelled = dt.Task.of("a", id="1"), dt.Task("2", (), columns={"level": "easy", "id": "mine"})
    assert dt.Tasks([plain, levelled])["id"] == ["1", "2"]
    with pytest.raises(dt.DataError, match="task '1' has no column 'level'"):
        dt.Tasks([levelled, plain])["level"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("finish_reasons", ("stop",), "3 sequences need 3 finish reasons, got 1"),
        ("steps", dt.Ragged.from_rows([[0]]), "3 sequences need 3 rows of steps, got 1"),
        ("sampled_logprobs", dt.Ragged.from_rows([[0.0], [], [0.0, 0.0]]), "every sampled token needs a log-prob"),
    ],
)
def test_what_is_given_per_row_or_sampled_token_must_fit(field, value, message):
    """Where it enters, not where it hurts."""
    with pytest.raises(dt.DataError, match=message):
        attrs.evolve(multi_turn(), **{field: value})


def test_rows_are_taken_by_mask_too():
    """Rollouts and scores read a mask as a mask, not as the indices 0 and 1; no rows at all are rollouts as well."""
    rollouts = multi_turn().with_rewards(a=dt.Scores.ok(torch.arange(3.0)))
    picked = rollouts.select(torch.tensor([False, True, True]))
    assert picked.tokens.tolist() == [[7, 8], [9, 10, 11]]
    assert picked.rewards["a"].values.tolist() == [1.0, 2.0]
    with pytest.raises(dt.DataError, match="does not fit 3 rows"):
        rollouts.rewards["a"].select(torch.tensor([True]))
    nothing = tiny_rollouts().select([]).select([])
    assert len(nothing) == 0
    assert len(nothing.sampled_logprobs) == 0


def test_a_failed_score_is_no_number():
    """Whatever number comes with a status that is not OK becomes NaN, also after arithmetic."""
    scores = dt.Scores(torch.tensor([1.0, 7.0]), torch.tensor([0, 1], dtype=torch.uint8), {1: "broken"})
    for value in (scores, scores.combine(2.0, lambda _, number: torch.full((2,), number))):
        assert value.valid.tolist() == [True, False]
        assert value.values.isnan().tolist() == [False, True]


def test_scores_must_fit_each_other():
    """As many values as statuses, and the same sequences on both sides."""
    with pytest.raises(dt.DataError, match="2 scores need as many statuses, got 1"):
        dt.Scores(torch.zeros(2), torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(dt.DataError, match="scores of 1 and of 2 sequences"):
        dt.Scores.ok(torch.zeros(1)).combine(dt.Scores.ok(torch.zeros(2)), lambda a, b: a + b)


def test_a_text_is_no_list_of_messages():
    """Its letters would each have become a message."""
    for make in (lambda: dt.Task("1", "hello"), lambda: dt.StepResult(messages="hello")):
        with pytest.raises(TypeError, match=r"got the text 'hello'; Task\.of"):
            make()


def test_an_episode_ends_in_one_way():
    """terminated or truncated, not both."""
    with pytest.raises(ValueError, match="either terminated or truncated"):
        dt.StepResult(terminated=True, truncated=True)


def test_fewer_tokens_than_the_fewest_cannot_be_asked_for():
    """min_tokens above max_tokens is refused."""
    with pytest.raises(ValueError, match=r"'min_tokens' must be <= 'max_tokens' \(2\): 3"):
        dt.Sampling(max_tokens=2, min_tokens=3)


class Countdown(dt.SyncEnvironment):
    """Ends when its task's answer has been counted down; breaks at a reset without a task."""

    def on_reset(self, seed, task):
        if task is None:
            raise LookupError("no task")
        self.left = task.answer
        return dt.StepResult(terminated=self.left == 0)

    def on_step(self, action):
        self.left -= 1
        return dt.StepResult(truncated=self.left == 0)


def test_a_blocking_environment_refuses_turns_outside_an_episode():
    """Before reset, after a reset that failed or ended at once, after the end, after close."""

    def task(count):
        return dt.Task("1", (), answer=count)

    async def play():
        environment, turn = Countdown(), dt.Message("assistant", "go")
        with pytest.raises(RuntimeError, match="before reset"):
            await environment.step(turn)
        assert not (await environment.reset(seed=0, task=task(1))).terminated
        assert (await environment.step(turn)).truncated
        with pytest.raises(RuntimeError, match="after the end"):
            await environment.step(turn)
        await environment.reset(seed=0, task=task(9))
        with pytest.raises(LookupError):
            await environment.reset(seed=0)
        with pytest.raises(RuntimeError):
            await environment.step(turn)
        assert (await environment.reset(seed=0, task=task(0))).terminated
        with pytest.raises(RuntimeError):
            await environment.step(turn)
        await environment.reset(seed=0, task=task(9))
        await environment.close()
        await environment.close()
        with pytest.raises(RuntimeError):
            await environment.step(turn)

    asyncio.run(play())
