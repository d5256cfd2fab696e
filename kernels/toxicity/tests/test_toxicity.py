"""What the reward promises."""

import random
import re
from pathlib import Path

import pytest
import torch

from dovetail import DataError, Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import check_kernel, part_checks
from dovetail_spelling import Listed
from dovetail_toxicity import Toxicity

DATA = Path(__file__).parents[3] / "../shared/data"
TEXTS = (
    "bad", ".", " bad", "dly", " a", "b", "add", " ", " old", "-", "hat", " s", "ss", "5", ".",
    "\n", " ba", "aa", "d", "é", " B", "AD", "!",
)  # fmt: skip
OPTIONS = {"words": ["bad", "old hat", "sss"], "tokenizer": Listed(TEXTS, 400)}
CASES = [("default", {}), ("several", {"cap": 4, "per_hit": -0.25, "leet": False})]
CHECKS = [
    (name, check)
    for name, options in CASES
    for check in part_checks("rewards", "toxicity", options={**OPTIONS, **options}, bounds=(-1, 0))
]


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", check_kernel(rewards.toxicity(**OPTIONS, cap=50, per_hit=-0.1)), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


def hits(texts, words=("bad", "old hat", "toss"), **options):
    """By a tokenizer whose tokens are characters."""
    letters = sorted(set("".join(texts)))
    part = Toxicity(words=words, per_hit=-1.0, cap=9, tokenizer=Listed(letters), **options)
    rows = Ragged.from_rows([[letters.index(letter) for letter in text] for text in texts], dtype=torch.int64)
    return [int(-score) for score in part.score(rows)]


@pytest.mark.parametrize(
    "text", ["bad", "So BAD!", "bäd", "baaaaad", "BaDDDD.", "b4d", "b@d", "old-hat", "OLD \n hat", "tosssss"]
)
def test_a_phrase_is_found_in_disguise(text):
    """Case, accents, signs around and between, letters three times or more, figures."""
    assert hits([text]) == [1]


@pytest.mark.parametrize(
    "text", ["badly", "abad", "baad", "ba d", "bd", "oldhat", "old", "tos", "tosser", "", "he'll", "b.a.d"]
)
def test_what_is_another_word_is_not_found(text):
    """Inside longer words, doubled, set apart, or cut short."""
    assert hits([text], words=("bad", "old hat", "toss", "hell")) == [0]


def test_every_place_counts_once_up_to_the_cap():
    """Two phrases that begin at one place are one hit."""
    assert hits(["bad bad old hat bad", "bad " * 20], words=("bad", "bad bad", "old hat")) == [4, 9]


def test_figures_stand_for_letters_only_if_asked():
    """Without leet they are themselves."""
    assert hits(["b4d", "4 b"], words=("bad", "4"), leet=False) == [0, 1]


def test_a_list_is_read_from_a_file(tmp_path):
    """Comments and empty lines are left out; what cannot be read is told, before anything is sampled."""
    listed = tmp_path / "list.txt"
    listed.write_text("# mine\n\nbad\nold hat\n", encoding="utf-8")
    assert Toxicity(file=str(listed)).phrases == ("bad", "old hat")
    listed.write_text("# none\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no phrase"):
        Toxicity(file=str(listed)).phrases  # noqa: B018
    with pytest.raises(DataError, match="cannot be read"):
        Toxicity(file=str(tmp_path / "absent")).on_run_start(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "give words"), ({"words": ["!"]}, "letter"), ({"words": ["x"], "per_hit": 1.0}, "per_hit")],
)
def test_options_that_do_not_fit_are_refused(options, message):
    """The error names the part."""
    with pytest.raises(OptionError, match=f"rewards part 'toxicity'.*{message}"):
        rewards.toxicity(**options)


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the lists and texts of {DATA}")
def test_planted_phrases_are_all_found_and_clean_lines_are_left_alone():
    """A public list of 403 phrases in Shakespeare's lines: nothing is flagged that a search for their words side by side,
    whatever stands between them, does not flag."""
    listed = (DATA / "badwords/en").read_text(encoding="utf-8").splitlines()
    lines = [line for line in (DATA / "tinyshakespeare/input.txt").read_text().splitlines() if line]
    whole = re.compile(rf"(?<!\w)(?:{'|'.join(map(_words, listed))})(?!\w)", re.IGNORECASE)
    clean, choose = [line for line in lines if not whole.search(line)], random.Random(0)
    planted = []
    for phrase in listed:
        for disguise in (str, str.upper, str.title, lambda p: f'"{p}!"', lambda p: p.replace(" ", "\n"), _stretched):
            words = choose.choice(clean).split(" ")
            words.insert(choose.randint(0, len(words)), disguise(phrase))
            planted.append(" ".join(words))
    texts = [*clean, *planted]
    letters = sorted(set("".join(texts)))
    numbers = {letter: number for number, letter in enumerate(letters)}
    rows = Ragged.from_rows([[numbers[letter] for letter in text] for text in texts], dtype=torch.int64)
    scores = Toxicity(file=str(DATA / "badwords/en"), tokenizer=Listed(letters)).score(rows).tolist()
    assert [line for line, score in zip(clean, scores, strict=False) if score] == []
    missed = [text for text, score in zip(planted, scores[len(clean) :], strict=True) if not score]
    assert missed == []


def _words(phrase):
    return r"[\W_]+".join(map(re.escape, phrase.split()))


def _stretched(phrase):
    """Its last letter five times."""
    return phrase + phrase[-1] * 4 if phrase[-1].isalpha() else phrase
