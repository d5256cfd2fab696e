"""What the environment promises, with the text games that come with Gymnasium."""

from __future__ import annotations

import asyncio

import gymnasium
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail import Message, StopReason, Task, UserError, environments
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_gym import Gym
from dovetail_gym.episode import picture_text
from dovetail_gym.spaces import Actions, observation_text, plain

LAKE = {"id": "FrozenLake-v1", "actions": ["left", "down", "right", "up"], "max_turns": 6, "size": 4, "test_size": 2}
VERSION = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
TAXI = {"id": VERSION, "max_turns": 3, "size": 20, "test_size": 5}
ENDS = "it has tasks, the same ones at each call"
CHECKS = [
    *part_checks("environments", "gym", options=LAKE, waive={ENDS: "the lake has one start, in both splits"}),
    *part_checks("environments", "gym", options=TAXI),
    *part_checks("environments", "gym", options={"id": "CartPole-v1", "max_turns": 4, "size": 8, "test_size": 2}),
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every environment promises, for games of several kinds."""
    check()


def played(texts, *, seed=0, task=0, **options):
    """What a game says to the texts, one after another."""

    async def play():
        game = Gym(**options)
        environment = await game.make()
        results = [await environment.reset(seed=seed, task=game.tasks("train")[task])]
        for text in texts:
            results.append(await environment.step(Message("assistant", text)))
        await environment.close()
        return results

    return asyncio.run(play())


def test_the_lake_is_crossed_in_words():
    """Down, down, right, right, down, right leads to the goal of the map that does not slip; 1 at the end, 0 before."""
    path = ["I go down.", "DOWN", "not left but right", "right", "down", "right"]
    results = played(path, **LAKE, kwargs={"is_slippery": False})
    assert [result.reward for result in results] == [0, 0, 0, 0, 0, 0, 1]
    assert results[-1].terminated
    assert results[-1].stop_reason is StopReason.COMPLETED
    first = results[0].messages[0].content
    assert "[red S]FFF\nFHFH\nFFFH\nHFFG" in first
    assert "left, down, right, up" in first
    assert "\x1b" not in first


def test_the_same_moves_as_in_gymnasium_give_the_same_rewards():
    """Taxi, 8 games of random moves: rewards, ends and pictures are the game's own."""
    rng = numpy.random.default_rng(0)
    options = {"id": VERSION, "max_turns": 1000, "size": 8, "test_size": 0}
    for task in Gym(**options).tasks("train"):
        moves = rng.integers(6, size=20).tolist()
        game = gymnasium.make(VERSION, render_mode="ansi")
        game.reset(seed=task.columns["seed"])
        expected = []
        for move in moves:
            expected.append(float(game.step(move)[1]))
        game.close()
        number = [t.id for t in Gym(**options).tasks("train")].index(task.id)
        results = played([f"move {move}" for move in moves], task=number, **options)
        assert [result.reward for result in results[1:]] == expected


def test_samples_of_a_group_begin_alike_and_go_on_by_themselves():
    """The task gives the start, the episode's seed the ice; the same seed gives the same game."""
    options = {**LAKE, "max_turns": 100}
    games = {seed: [r.messages for r in played(["down", "right"], seed=seed, **options)] for seed in range(8)}
    assert len({str(messages[0]) for messages in games.values()}) == 1
    assert len({str(messages) for messages in games.values()}) > 1
    assert games[3] == [r.messages for r in played(["down", "right"], seed=3, **options)]


def test_a_text_without_an_action_costs_a_turn():
    """And says what the actions are; with `end` it is the last."""
    results = played(["hm", "upwards", "leftmost"], **{**LAKE, "max_turns": 3}, penalty=0.25)
    assert [result.reward for result in results[1:]] == [-0.25] * 3
    assert results[1].messages[0].content == "That is no action. Actions: left, down, right, up."
    assert [result.truncated for result in results] == [False, False, False, True]
    assert results[-1].stop_reason is StopReason.MAX_TURNS
    last = played(["hm"], **LAKE, on_invalid="end")[-1]
    assert last.terminated
    assert last.stop_reason is StopReason.PARSE_ERROR


def test_the_limit_of_the_game_itself_truncates():
    """A TimeLimit of gymnasium.make."""
    result = played(["0", "1", "0"], id="CartPole-v1", kwargs={"max_episode_steps": 3}, size=1)[-1]
    assert (result.truncated, result.terminated, result.stop_reason) == (True, False, StopReason.MAX_TURNS)


def test_a_pattern_finds_the_action_in_its_place():
    """The last match counts, and what stands elsewhere does not."""
    actions = Actions(gymnasium.spaces.Discrete(4), LAKE["actions"], r"<move>(.*?)</move>")
    assert actions.read("left <move>up</move> or <move> right </move> down") == 2
    assert actions.read("left") is None
    assert actions.read("<move>fly</move>") is None


def test_names_are_whole_words_and_the_longest_wins():
    """Case does not matter; a space may begin at another number."""
    actions = Actions(gymnasium.spaces.Discrete(3, start=5), ["go", "go up", "no-go"], None)
    assert [actions.read(text) for text in ("Go", "I go up", "a no-go", "gone")] == [5, 6, 7, None]


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2), st.text("abc,; []", max_size=10))
def test_vectors_are_read_as_they_are_written(numbers, between):
    """Whatever stands around them; too few, too great and odd numbers are no action."""
    actions = Actions(gymnasium.spaces.Box(-1, 1, (2,)), (), None)
    assert actions.read(f"{between} {numbers[0]} {between}, {numbers[1]}").tolist() == numbers
    assert actions.read(str(numbers[0])) is None
    assert actions.read(f"{numbers[0]}, 1.5") is None
    assert actions.read("1e999 0") is None


def test_whole_numbers_stay_whole():
    """Half a choice is none."""
    actions = Actions(gymnasium.spaces.MultiDiscrete([3, 3]), (), None)
    assert actions.read("2, 1").tolist() == [2, 1]
    assert actions.read("2, 0.5") is None
    assert actions.read("2, 3") is None
    assert str(actions) == "2 whole numbers from 0, each below [3, 3]"


def test_what_a_picture_says_by_colour_is_said_in_words():
    """Where the player stands is shown by colour alone in some games."""
    picture = "\x1b[43m \x1b[0m:\x1b[34;1mR\x1b[0m|\x1b[42m\x1b[35mG\x1b[0m\x1b[0m:Y\n"
    assert picture_text(picture) == "[yellow  ]:[blue R]|[green magenta G]:Y"
    assert picture_text("S\n") == "S"


def test_observations_as_text():
    """Of every kind of space."""
    value = {"pair": (1, numpy.float32(0.5)), "vector": numpy.array([1.23456, -2.0]), "word": "a"}
    assert observation_text(value) == "pair: 1, 0.5\nvector: [1.235, -2]\nword: a"
    assert plain({"p": numpy.float64(0.5), "m": numpy.array([1, 0], dtype=numpy.int8), "o": object(), 3: None}) == {
        "p": 0.5,
        "m": [1, 0],
    }


def described(environment, observation):
    """For the test below."""
    return f"square {observation} of {environment.observation_space.n}"


def test_a_function_of_the_user_may_describe(monkeypatch):
    """By its import path."""
    import sys
    import types

    monkeypatch.setitem(sys.modules, "my_texts", types.SimpleNamespace(described=described))
    results = played(["right"], **LAKE, kwargs={"is_slippery": False}, describe="my_texts:described")
    assert "square 0 of 16" in results[0].messages[0].content
    assert results[1].messages[0].content == "square 1 of 16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "FrozenLake-v1", "pattern": "("}, "no regular expression"),
        ({"id": "FrozenLake-v1", "pattern": "left"}, "needs a group"),
        ({"id": "FrozenLake-v1", "prompt": "{state}"}, "prompt may hold"),
        ({"id": "FrozenLake-v1", "actions": ["a", "A"]}, "same name"),
        ({"id": "FrozenLake-v1", "show": "picture"}, "show"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """Before a game is made."""
    with pytest.raises(OptionError, match=message):
        environments.gym(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "FrozenLake-v99"}, "FrozenLake-v99 cannot be made"),
        ({"id": "no_such_module:Game-v0"}, "no_such_module"),
        ({"id": "FrozenLake-v1", "actions": ["a"]}, "1 actions are named, and the game has 4"),
        ({"id": "FrozenLake-v1", "kwargs": {"slippery": 1}}, "cannot be made"),
        ({"id": "CartPole-v1", "show": "ansi"}, "no picture in letters"),
        ({"id": "FrozenLake-v1", "describe": "nowhere:f"}, "cannot be imported"),
    ],
)
def test_games_that_cannot_be_played_are_told(options, message):
    """When the run asks for its tasks, before it samples anything."""
    with pytest.raises(UserError, match=message):
        environments.gym(**options).call("tasks", {"split": "train"})


def test_a_task_of_another_environment_is_refused():
    """It names no start."""
    with pytest.raises(UserError, match="no column 'seed'"):
        asyncio.run(_reset(Task.of("hello", "t")))


async def _reset(task):
    environment = await Gym(**LAKE).make()
    await environment.reset(seed=0, task=task)
