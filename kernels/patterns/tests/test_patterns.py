"""What the reward promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import check_kernel, part_checks
from dovetail_patterns import Patterns, plain
from dovetail_spelling import Listed

TEXTS = (
    "yes",
    ".",
    " yes",
    "so",
    "no",
    " n",
    "o",
    ".",
    "\\boxed",
    "{",
    "4",
    "}",
    "\n",
    "Yes",
    "x",
    "_",
    " ",
    "é",
    "日",
    "ye",
    "s",
)
OPTIONS = {"patterns": ["yes", "no.", "\\boxed{", "日", "\n\n"], "tokenizer": Listed(TEXTS, 400)}
CASES = [("default", {}), ("words", {"whole_words": True, "ignore_case": True, "per_hit": -0.1, "cap": 10})]
CHECKS = [(n, c) for n, options in CASES for c in part_checks("rewards", "patterns", options={**OPTIONS, **options})]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", check_kernel(rewards.patterns(**OPTIONS, whole_words=True, cap=50)), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


def hits(text, patterns, cut=1, **options):
    """By a tokenizer whose tokens are pieces of ``cut`` characters."""
    found = [text[start : start + cut] for start in range(0, len(text), cut)]
    part = Patterns(patterns=patterns, per_hit=1.0, cap=99, tokenizer=Listed(found or [""]), **options)
    return int(part.score(Ragged.from_rows([list(range(len(found)))], dtype=torch.int64)))


@pytest.mark.parametrize("cut", [1, 2, 3, 50])
def test_signs_and_letters_of_any_script_are_found_however_they_are_cut(cut):
    """Brackets, backslashes, line ends, accents, emoji; places may overlap."""
    text = "The answer is \\boxed{4}.\n\n日本語 👍🏽 naïve aaa [x](y) ```"
    for pattern, count in {
        "\\boxed{": 1,
        "}.\n\n": 1,
        "本": 1,
        "👍🏽": 1,
        "ïve": 1,
        "aa": 2,
        "[x](": 1,
        "```": 1,
        "z": 0,
    }.items():
        assert hits(text, [pattern], cut) == count, pattern
    assert hits(text, ["a", "aa", "aaa"], cut) == text.count("a")


@pytest.mark.parametrize(
    ("text", "count"),
    [("cat", 1), ("a cat.", 1), ("cats", 0), ("bobcat", 0), ("cat_", 0), ("Cat", 0), ("(cat)", 1), ("écat", 0)],
)
def test_whole_words_do_not_stand_inside_longer_ones(text, count):
    """Letters, digits and _ are of words."""
    assert hits(text, ["cat"], whole_words=True) == count


def test_a_pattern_that_ends_with_a_sign_needs_no_border_there():
    """Only its ends that are letters do."""
    assert hits("f(x)g", ["f("], whole_words=True) == 1
    assert hits("ef(x)", ["f("], whole_words=True) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab. ", min_size=1, max_size=3), min_size=1, max_size=4),
    st.text("abAB. ", max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_it_counts_what_plain_python_counts(patterns, text, whole, fold):
    """On any text."""
    part = Patterns(
        patterns=patterns, per_hit=1.0, cap=99, whole_words=whole, ignore_case=fold, tokenizer=Listed(list("abAB. "))
    )
    row = ["abAB. ".index(letter) for letter in text]
    (score,) = part.score(Ragged.from_rows([row], dtype=torch.int64)).tolist()
    assert score == plain(row, part.pieces, part.expression, part.per_hit, part.cap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": []}, "patterns"),
        ({"patterns": [""]}, "at least one character"),
        ({"patterns": ["x"], "cap": 0}, "cap"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """The error names the part."""
    with pytest.raises(OptionError, match=f"rewards part 'patterns'.*{message}"):
        rewards.patterns(**options)
