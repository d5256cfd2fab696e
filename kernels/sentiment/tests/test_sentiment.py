"""What the reward promises, beside VADER itself."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from dovetail import Ragged, rewards
from dovetail.errors import OptionError
from dovetail.testing import check_kernel, part_checks
from dovetail_sentiment import Sentiment
from dovetail_spelling import Listed

DATA = Path(__file__).parents[3] / "../shared/data/rt-polarity"
TEXTS = (
    " good", " not", " but", " ba", "d", " very", " the", " no", " never", " so", " great", "ly", " without", " doubt", ".",
    " least", " at", " hardly", " hate", "ful", " nor", " ", "this", " awful", " isn", "'t", " well", "-", "made", " kind",
)  # fmt: skip
WORDS = Listed(TEXTS, 400)
CASES = [("default", {}), ("own words", {"words": {"the": 2.0}, "alpha": 4.0})]
CHECKS = [
    (name, check)
    for name, options in CASES
    for check in part_checks("rewards", "sentiment", options={"tokenizer": WORDS, **options}, bounds=(-1, 1))
]
VADER = SentimentIntensityAnalyzer()


@pytest.mark.parametrize(("case", "check"), CHECKS, ids=str)
def test_conformance(case, check):
    """It keeps what every reward promises, whatever its options."""
    check()


@pytest.mark.parametrize("check", check_kernel(rewards.sentiment(tokenizer=WORDS)), ids=str)
def test_kernel(check):
    """It keeps what every kernel promises."""
    check()


def scored(texts, **options):
    """By a tokenizer whose tokens are characters."""
    letters = sorted(set("".join(texts)))
    part = Sentiment(tokenizer=Listed(letters), **options)
    return part.score(
        Ragged.from_rows([[letters.index(letter) for letter in text] for text in texts], dtype=torch.int64)
    )


SENTENCES = [
    "the book was good", "the book was very good", "the book was not good", "the book was hardly ever good",
    "it was never so good", "it was never good", "without doubt a good book", "without a good book", "the least good book",
    "at least a good book", "no good book", "no book is bad", "neither good nor bad", "he isn't happy with it",
    "a good plot, but the dialog is awful and the acting is bad", "bad but good", "a well-made, awful thing", "nothing here",
    "not such a terrible thing", "it was barely great and extremely sad", "no hope or joy", "not very happy", "",
]  # fmt: skip


def test_single_sentences_score_as_vader_scores_them():
    """Boosters, negations, "never so", "without doubt", "least", "no", contrasts; whatever the tokens are."""
    expected = [VADER.polarity_scores(sentence)["compound"] for sentence in SENTENCES]
    assert scored(SENTENCES).tolist() == pytest.approx(expected, abs=1e-3)


def test_what_the_user_rates_goes_before_the_lexicon():
    """And apostrophes, case and hyphens do not matter."""
    assert scored(["GOOD", "Well-Made"], words={"good": -1.0, "wellmade": 1.0}).tolist() == pytest.approx([-0.25, 0.25])


@pytest.mark.parametrize("words", [{"two words": 1.0}, {"!": 1.0}])
def test_what_is_no_word_is_refused(words):
    """The error names the part."""
    with pytest.raises(OptionError, match=r"rewards part 'sentiment'.*single words"):
        rewards.sentiment(words=words)


def byte_pairs(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the sentences of {DATA}")
def test_it_tells_reviews_apart_as_well_as_vader():
    """10,662 sentences: at most one point behind in accuracy, and the same sign on more than 90 %."""
    sides = [DATA.joinpath(f"rt-polarity.{side}").read_text("latin-1").splitlines() for side in ("pos", "neg")]
    texts = [text for side in sides for text in side]
    tokenizer = byte_pairs(texts)
    rows = Ragged.from_rows(tokenizer(texts)["input_ids"], dtype=torch.int64)
    ours = Sentiment(tokenizer=tokenizer).score(rows)
    theirs = torch.tensor([VADER.polarity_scores(text)["compound"] for text in texts])
    positive = torch.arange(len(texts)) < len(sides[0])

    def accuracy(scores):
        return ((scores > 0) == positive).float().mean().item()

    assert accuracy(theirs) > 0.63
    assert accuracy(ours) > accuracy(theirs) - 0.01
    assert (torch.sign(ours.round(decimals=4)) == torch.sign(theirs)).float().mean().item() > 0.9
