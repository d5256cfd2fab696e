"""The word `process`: from the configuration to the worker, and back."""

from __future__ import annotations

import importlib.metadata
import time

import pytest
from parts_of_tests import tiny_policy

import dovetail as dt
from dovetail import catalog
from dovetail.errors import ConfigError, OptionError, TooManyInvalid, UserError
from dovetail.runtime.scoring import Offloader
from dovetail_trainer.config.build import build, describe_run
from dovetail_trainer.config.load import read_mapping

ENDLESS = r"(a+)+$"


class OnlyAs:
    """A generator whose completions are many times `a`, then `b`."""

    @dt.hookimpl
    def generate(self, tokenizer, prompts, samples):
        row = tokenizer.encode("a" * 40 + "b", add_special_tokens=False)
        completions = dt.Ragged.from_rows([row] * (len(prompts) * samples))
        return dt.Generated(completions, completions.map(lambda t: -0.1 * t.clamp(max=1)), ("stop",) * len(completions))


def words(**reward):
    return {
        "algorithm": "grpo",
        "policy": {"tiny": {"hidden": 16, "layers": 1, "heads": 2}},
        "environment": "math",
        "rewards": [{"use": "format", "pattern": ENDLESS, **reward}],
    }


def test_a_match_without_end_costs_a_run_its_deadline_and_no_other_score():
    """Measured without a process: the whole run stands still until the match is over."""
    rewards = [dt.rewards.format(pattern=ENDLESS, process=True), dt.rewards.length(target=4)]
    policy = tiny_policy(context=96, generator=OnlyAs())
    settings = dt.TrainSettings(reward_timeout=0.5, sampling=dt.Sampling(max_tokens=64))
    run = dt.compile(dt.recipes["grpo"], policy=policy, rewards=rewards, group_size=2, settings=settings)
    try:
        with pytest.raises(TooManyInvalid, match="100% of the samples"):
            run.collect(prompts=["a", "b"])  # the process is warm from here on
        started = time.monotonic()
        with pytest.raises(TooManyInvalid, match=r"format: no answer within 0\.5 s") as error:
            run.collect(prompts=["a", "b"])
        assert time.monotonic() - started < 20
        scores = error.value.collected.rollouts.rewards
        assert scores["format"].reasons.keys() == {0, 1, 2, 3}
        assert bool(scores["length"].valid.all())
    finally:
        run.close()


def test_a_configuration_says_process_and_a_run_says_it_again(tmp_path):
    """In its folder, so that a resumed run does the same."""
    trainer = build(read_mapping(words(process=True)), run_dir=tmp_path / "run")
    assert trainer.rewards[0].in_process
    assert describe_run(trainer)["rewards"][0] == {
        "use": "format",
        "process": True,
        "pattern": ENDLESS,
        "tags": [],
        "partial": False,
    }
    assert not build(read_mapping(words()), run_dir=tmp_path / "run").rewards[0].in_process


def test_process_is_a_word_of_rewards_alone():
    """Another kind of part has no such option, and it is yes or no."""
    with pytest.raises(ConfigError, match="expected bool, got str 'yes'"):
        read_mapping(words(process="yes"))
    with pytest.raises(ConfigError, match="unknown option 'process'"):
        read_mapping({**words(), "loggers": [{"use": "console", "process": True}]})
    with pytest.raises(OptionError, match="unknown option 'process'"):
        dt.loggers.console(process=True)


def test_a_reward_says_that_it_is_heavy_and_the_user_has_the_last_word(register):
    """The trait asks for a process; process=False keeps it in a thread."""

    class Heavy:
        traits = ("cpu_heavy",)

        @dt.hookimpl
        def score(self, texts):
            return [0.0] * len(texts)

    register("rewards", "heavy", Heavy)
    assert dt.rewards.heavy().in_process
    assert not dt.rewards.heavy(process=False).in_process
    with pytest.raises(UserError, match="where a new process cannot find it"):
        dt.compile(dt.recipes["grpo"], policy=tiny_policy(), rewards=[Heavy()])


def test_an_edit_of_a_reward_keeps_its_process():
    """Options change, the word stays."""

    @dt.algorithm(using=dt.recipes["grpo"])
    def edited(graph):
        graph.rewards.replace_with(dt.reward("format", pattern="a", process=True))
        graph.set("rewards", pattern="b")

    part = edited.trace()["rewards"].op.part
    assert part.options()["pattern"] == "b"
    assert part.in_process


def test_without_the_plugin_the_extra_is_named(monkeypatch):
    """Before anything has run."""
    installed = [d for d in importlib.metadata.distributions() if d.name != "dovetail-process"]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: installed)
    catalog.entries.cache_clear()
    try:
        with pytest.raises(UserError, match="rewards/format is to be scored in a process of its own") as error:
            Offloader().worker(dt.rewards.format(pattern="a", process=True))
        assert 'pip install "dovetail[process]"' in error.value.hint
    finally:
        monkeypatch.undo()
        catalog.entries.cache_clear()
