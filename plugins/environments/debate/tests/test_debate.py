"""What the environment promises: fair turns, swapped positions, rewards that add up, honest failures."""

from __future__ import annotations

import asyncio

import pytest

import dovetail as dt
from dovetail import Invalid, Message, StopReason, Task, environments
from dovetail.errors import OptionError
from dovetail.registry import registry
from dovetail.testing import part_checks
from dovetail_debate import Debate
from dovetail_debate.judges import NoVerdict
from dovetail_debate.rules import score_argument

STRONG = (
    "Studies show that zoos protect endangered species: according to a report of 2019, breeding programmes saved 17 of "
    "them. Visitors also learn to respect animals, which is evidence that the benefit outweighs the cost."
)
WEAK = "i dont like it lol!!!"
OPPONENT = {"texts": {"for": [STRONG, "Again: it works, because people learn."], "against": [WEAK, "no way"]}}
TASK = Task("t", (Message("user", "Zoos"),), columns={"topic": "Zoos do good", "first": "for", "position": "for"})
CHECKS = [
    *part_checks("environments", "debate"),
    *part_checks("environments", "debate", options={"opponent": OPPONENT, "rounds": 3, "rewards": "win"}),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every environment promises, with two trained sides and with one."""
    check()


def debate(*texts, task=TASK, seed=0, **options):
    """What it says to the texts, one after another."""

    async def play():
        environment = await Debate(**options).make()
        results = [await environment.reset(seed=seed, task=task)]
        for text in texts:
            results.append(await environment.step(Message("assistant", text)))
        await environment.close()
        return environment, results

    return asyncio.run(play())


def returns(results):
    """The sum of rewards of each side, as a runtime credits them."""
    sums = dict.fromkeys(("for", "against"), 0.0)
    for result in results[1:]:
        sums[result.info["side"]] += result.reward
        for side, value in result.info.get("rewards", {}).items():
            sums[side] += value
    return sums


def test_the_sides_take_turns_and_hear_each_other():
    """Each is told its position before its first turn, and what the other has just said before every turn."""
    environment, results = debate("one.", "two.", "three.", "four.", rounds=2)
    assert environment.agents == ("for", "against")
    assert [result.next_agent for result in results[:-1]] == ["for", "against", "for", "against"]
    told = [result.messages[0].content for result in results[:-1]]
    assert "You argue for it, in 2 turns" in told[0]
    assert "You argue against it" in told[1]
    assert told[1].endswith("The other side says:\none.")
    assert told[2] == "The other side says:\ntwo."
    assert results[-1].terminated
    assert results[-1].messages == ()
    assert results[-1].stop_reason is StopReason.COMPLETED


def test_positions_are_swapped():
    """Each motion gives two tasks: who begins, or, against an opponent, which side one has."""
    tasks = Debate().tasks("train")
    assert {(t.columns["topic"], t.columns["first"]) for t in tasks} == {
        (t.columns["topic"], side) for t in tasks for side in ("for", "against")
    }
    (second,) = [t for t in Debate().tasks("train") if t.id == "train-0-against"]
    assert debate(task=second)[1][0].next_agent == "against"
    one_sided = Debate(opponent=OPPONENT).tasks("test")
    assert {t.columns["position"] for t in one_sided} == {"for", "against"}


@pytest.mark.parametrize("rewards", ["margin", "win"])
def test_zero_sum_rewards_add_up_to_nothing(rewards):
    """Whoever wins, and whoever begins."""
    for first in ("for", "against"):
        task = Task("t", (), columns={"topic": "Zoos do good", "first": first})
        _, results = debate(STRONG, WEAK, task=task, rounds=1, rewards=rewards)
        sums = returns(results)
        other = "against" if first == "for" else "for"
        assert sums[first] == -sums[other] > 0
        assert rewards == "margin" or sums[first] == 1


def test_judged_rewards_are_the_scores():
    """Of each side on its own; a part of them may be paid turn by turn."""
    _, results = debate(STRONG, WEAK, rounds=1, rewards="judged")
    sums = returns(results)
    assert sums["for"] == results[1].info["scores"]["total"]
    assert sums["against"] == results[2].info["scores"]["total"]
    _, by_turn = debate(STRONG, WEAK, rounds=1, rewards="judged", turn_weight=0.25)
    assert by_turn[1].reward == 0.25 * by_turn[1].info["scores"]["total"]
    assert returns(by_turn) == pytest.approx(sums)


def test_an_opponent_argues_the_other_side():
    """It begins if its side argues for the motion, has the last word if it does not, and is not trained."""
    task = Task("t", (), columns={"topic": "Zoos do good", "position": "against"})
    environment, results = debate("one.", "two.", task=task, opponent=OPPONENT)
    assert environment.agents == ("agent",)
    assert [result.next_agent for result in results] == ["agent"] * 3
    assert STRONG in results[0].messages[0].content
    assert "Again: it works" in results[1].messages[0].content
    assert results[-1].reward < 0
    assert "rewards" not in results[-1].info
    _, results = debate(STRONG, STRONG, opponent=OPPONENT)
    assert "The other side" not in results[0].messages[0].content
    assert results[1].messages[0].content == f"The other side says:\n{WEAK}"
    assert results[-1].terminated
    assert results[-1].reward > 0


class Letters:
    """A generator that says one letter, chosen by the seed, as often as it may."""

    @dt.hookimpl
    def generate(self, tokenizer, prompts, samples, sampling, seeds):
        letters = [tokenizer.encode(chr(97 + seed % 26), add_special_tokens=False) for seed in seeds.tolist()]
        completions = dt.Ragged.from_rows([letter * sampling.max_tokens for letter in letters])
        return dt.Generated(completions, completions.map(lambda tokens: -0.1 * tokens), ("length",) * len(completions))


def test_a_local_agent_may_be_the_opponent():
    """The same seed gives the same debate, another one another; it hears the motion and what was said."""
    tiny = {"hidden": 16, "layers": 1, "heads": 2, "context": 600}
    opponent = {"agent": {"tiny": tiny, "generator": Letters()}, "max_tokens": 8}
    task = Task("t", (), columns={"topic": "Zoos", "position": "against"})
    said = [debate(task=task, opponent=opponent, seed=seed)[1][0].messages[0].content[-8:] for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2]
    assert len(set(said[0])) == 1


def test_an_opponent_that_fails_makes_the_debate_invalid():
    """It raises; the agent does not win by it."""
    opponent = {"url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}
    with pytest.raises(RuntimeError, match="the opponent gave no argument: m failed 1 times"):
        debate("one.", opponent=opponent)


def test_components_add_up_to_the_mean_over_the_turns():
    """So that an episode's sum is a score in [0, 1]."""
    _, results = debate(STRONG, WEAK, WEAK, STRONG, rounds=2)
    for side in ("for", "against"):
        own = [result for result in results[1:] if result.info["side"] == side]
        total = sum(result.reward_components["total"] for result in own)
        assert total == pytest.approx(sum(result.info["scores"]["total"] for result in own) / 2)
        assert 0 <= total <= 1


def counted(texts, groups):
    """A judge for the tests: the number of letters, of 1000; one word makes it fail."""
    assert groups.tolist() == [0, 0]
    return [Invalid("no idea") if "unclear" in text else len(text) / 1000 for text in texts]


async def late(messages, tasks):
    """The same, async, from the messages."""
    assert len(tasks) == 2
    return [len(said[-1].content) / 1000 for said in messages]


def by_rollouts(rollouts):
    """A reward that a debate cannot serve."""
    return [0.0] * len(rollouts)


for part in (counted, late, by_rollouts):
    registry("rewards").register(part.__name__, part)


@pytest.mark.parametrize("use", ["counted", "late"])
def test_a_reward_part_may_be_the_judge(use):
    """It is given the sides' arguments as two answers of one group."""
    _, results = debate("x" * 300, "y" * 100, rounds=1, judge={"use": use})
    assert returns(results) == pytest.approx({"for": 0.2, "against": -0.2})


@pytest.mark.parametrize(
    ("use", "text", "message"),
    [("counted", "unclear", "no judgement of the side 'for': no idea"), ("by_rollouts", "x", "asks for rollouts")],
)
def test_a_judge_that_fails_makes_the_debate_invalid(use, text, message):
    """It raises; nobody gets a number."""
    with pytest.raises(NoVerdict, match=message):
        debate(text, "x", rounds=1, judge={"use": use})


def test_motions_come_from_a_file(tmp_path):
    """Each once, in one split; a broken line is told."""
    path = tmp_path / "motions.jsonl"
    path.write_text("".join(f'{{"topic": "Motion {number}"}}\n' for number in [*range(40), 3]))
    train, test = (Debate(path=str(path)).tasks(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (60, 20)
    assert not {task.columns["topic"] for task in train} & {task.columns["topic"] for task in test}
    path.write_text('{"topic": "A"}\n{"topic": 3}\n')
    with pytest.raises(dt.DataError, match="line 2 cannot be read"):
        Debate(path=str(path)).tasks("train")
    path.write_text("")
    with pytest.raises(dt.DataError, match="has no motions"):
        Debate(path=str(path)).tasks("train")


def test_a_task_of_elsewhere_is_refused():
    """With what it lacks."""
    with pytest.raises(dt.DataError, match="needs the columns 'topic', and 'first'"):
        debate(task=Task.of("hello", "lost"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponent": {"text": "x"}}, "unknown option 'text'"),
        ({"opponent": {"texts": {"for": ["x"]}}}, "an opponent's texts are"),
        ({"opponent": {"texts": {"for": ["x"], "against": []}}}, "an opponent's texts are"),
        ({"opponent": {"url": "http://x"}}, "url and model belong together"),
        ({"opponent": {"texts": {"for": ["x"], "against": ["y"]}, "url": "x"}}, "an opponent reads"),
        ({"judge": {"url": "x"}}, "a judge is a reward part"),
        ({"judge": {"use": "cuonted"}}, "did you mean 'counted'"),
        ({"rounds": 0}, "rounds"),
        ({"weights": {"evidnce": 1}}, "did you mean 'evidence'"),
        ({"weights": {"brevity": -1}}, "brevity"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """Before anybody argues."""
    with pytest.raises(dt.UserError, match=message):
        environments.debate(**options)


def test_options_are_read_from_plain_words():
    """As a configuration gives them."""
    assert environments.debate(weights={"brevity": 3.0}).instance.weights.brevity == 3.0
    with pytest.raises(OptionError):
        environments.debate(held_out=2.0)


def test_strong_arguments_beat_weak_ones_whatever_comes_first():
    """Evidence, relevance, rebuttal, consistency and brevity, each on its own."""
    strong, weak = (score_argument(text, "Zoos do good", against=STRONG) for text in (STRONG, WEAK))
    assert strong.evidence > weak.evidence
    assert strong.consistency > weak.consistency
    on, off = (score_argument(text, "Zoos do good") for text in ("Zoos do good for animals.", "I think I like my cat."))
    assert on.relevance > off.relevance


def test_repeating_the_other_side_is_no_rebuttal():
    """Taking up its words and adding some is."""
    claim = "Zoos protect endangered animals from hunters."
    answer = "However, animals in zoos suffer, and hunters stay; reserves protect them better."
    copied, answered, silent = (
        score_argument(text, "Zoos", against=claim).rebuttal for text in (claim, answer, "Taxes are high.")
    )
    assert copied == 0
    assert silent == 0
    assert answered > 0.5


def test_saying_the_same_again_costs_consistency():
    """Of one's own earlier turns."""
    first, again = (score_argument(STRONG, "Zoos", before=before).consistency for before in ([], [STRONG]))
    assert again == 0 < first


def test_padding_does_not_pay_without_end():
    """Repeating a text, or going beyond the words allowed, lowers brevity; no text scores nothing."""
    once, often = (score_argument(" ".join([STRONG] * times), "Zoos", most_words=60) for times in (1, 20))
    assert often.brevity < 0.2 * once.brevity
    for text in ("", " ... ", "123"):
        assert score_argument(text, "Zoos").total == 0


def test_the_first_speaker_does_not_pay_for_having_nothing_to_rebut():
    """The total leaves rebuttal out."""
    scores = score_argument(STRONG, "Zoos")
    parts = 9 * scores.evidence + 2 * scores.relevance + 3 * scores.consistency + scores.brevity
    assert scores.total == pytest.approx(parts / 15)
