"""What the reward promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    texts = ["<think>a</think>", "<answer>3</answer><think>a</think>", "</think><think>", ""]
    assert reward.score(texts) == pytest.approx([1 / 3, 2 / 3, 0, 0])


PIECES = st.sampled_from(["<a>", "</a>", "<b>", "</b>", "x", " ", "\n"])


@given(st.text("xy z\n"), st.text("xy z\n"), st.text(" \n"))
def test_whatever_stands_inside_the_tags_is_right(first, second, space):
    """Only white space may stand between and around them."""
    assert Format(tags=("a", "b")).score([f"{space}<a>{first}</a>{space}<b>{second}</b>{space}"]) == [1.0]


@given(st.lists(PIECES, max_size=12).map("".join))
def test_partial_credit_reaches_1_only_for_the_whole_format(text):
    """Below that it is a share of the tags, and without it the score is 0."""
    (strict,) = Format(tags=("a", "b")).score([text])
    (partial,) = Format(tags=("a", "b"), partial=True).score([text])
    assert (strict, partial) in [(1.0, 1.0), (0.0, 0.0), (0.0, pytest.approx(1 / 3)), (0.0, pytest.approx(2 / 3))]


def test_a_text_that_repeats_its_tags_is_scored_at_once():
    """A policy that has broken down must not hold up the run: the match alone would take minutes here."""
    assert Format(tags=("a", "b", "c")).score(["<a>" + "</a><b></b><c></c>" * 3000 + "x"]) == [0.0]


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
        ({"tags": ["<think>"]}, "names without brackets"),
        ({"tags": [""]}, "names without brackets"),
        ({"tags": ["a", "b", "a"]}, "'a' is named more than once"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """The error names the part and the reason."""
    with pytest.raises(OptionError, match=message):
        rewards.format(**options)
