"""What the reward promises."""

import pytest

from dovetail import rewards
from dovetail.errors import OptionError
from dovetail.testing import part_checks
from dovetail_format import Format

CASES = [{"pattern": r"\d+"}, {"tags": ["think", "answer"]}, {"tags": ["a"], "partial": True}]
CHECKS = [check for options in CASES for check in part_checks("rewards", "format", options=options, bounds=(0, 1))]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a\nb</think> <answer>3</answer>", 1.0),
        ("\n<think></think><answer></answer>\n", 1.0),
        ("<answer>3</answer><think>a</think>", 0.0),
        ("x <think>a</think><answer>3</answer>", 0.0),
        ("<think>a</think><think>b</think><answer>3</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("", 0.0),
    ],
)
def test_tags_come_once_in_order_with_nothing_around(text, score):
    """Anything else scores 0."""
    assert Format(tags=("think", "answer")).score([text]) == [score]


def test_partial_credit():
    """A tag that is right counts; all of it needs order and nothing around as well."""
    reward = Format(tags=("think", "answer"), partial=True)
    assert reward.score(["<think>a</think>", "<answer>3</answer><think>a</think>", ""]) == pytest.approx(
        [1 / 3, 2 / 3, 0]
    )


def test_a_pattern_matches_the_whole_text():
    """A dot matches line ends."""
    assert Format(pattern="a.b").score(["a\nb", "a b c", ""]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either pattern or tags"),
        ({"pattern": "a", "tags": ["b"]}, "give either pattern or tags"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "a", "partial": True}, "partial credit needs tags"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """The error names the part and the reason."""
    with pytest.raises(OptionError, match=message):
        rewards.format(**options)
