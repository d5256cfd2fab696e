"""What the tables promise: a row of tokens spells what the tokenizer decodes."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dovetail import Ragged, UserError
from dovetail_spelling import Automaton, Listed, Spelled, Table, count, pieces

TEXT = ["It isn't  bad; naïve?\n\tÉté 2026 – “fine” 🖕👍🏽 日本語 x_y", "the theatre, there and then!  The end."]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens(["there and"])
    return tokenizer


def sentencepiece():
    """As Llama's: spaces are ▁, what is unknown falls back to bytes."""
    known = ["<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghinrtTh", "▁t", "▁the", "he"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("▁", "t"), ("h", "e"), ("▁t", "he")], byte_fallback=True, unk_token="<|end|>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def characters():
    known = ["<|end|>", *dict.fromkeys("".join(TEXT))]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(known)}, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentencepiece, characters])
def test_the_tokens_of_a_text_spell_it(make):
    """Byte-level BPE, SentencePiece with byte fallback, characters; accents, emoji and added tokens too."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="<|end|>")
    spelled = pieces(tokenizer)
    for text in TEXT:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(spelled[token] for token in [*ids, tokenizer.eos_token_id]).decode() == text
    assert spelled[tokenizer.eos_token_id] == b""


ROWS = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6)


@given(ROWS)
def test_rows_of_codes_are_the_codes_of_their_tokens(rows):
    """One after another; ids beyond the table spell nothing."""
    folded = [b"", b"\1\2", b"\0", b"\3"]
    spelled = Table.of(folded).spell(Ragged.from_rows(rows, dtype=torch.int64))
    expected = [list(b"".join(folded[token] for token in row if token < 4)) for row in rows]
    assert spelled.tolist() == expected


@settings(max_examples=150)
@given(
    st.lists(st.text("ab-", min_size=1, max_size=4), min_size=1, max_size=5),
    st.lists(st.text("ab-", max_size=14), min_size=1, max_size=4),
    st.booleans(),
)
def test_an_automaton_finds_what_a_regular_expression_finds(patterns, texts, bounded):
    """Places where a pattern begins, within words or not."""
    codes = {"-": 0, "a": 1, "b": 2}
    coded = [[codes[sign] for sign in pattern] for pattern in patterns]
    automaton = Automaton.of(
        [(number, 0) for number in range(len(coded))],
        lambda at: {coded[at[0]][at[1]]: [(at[0], at[1] + 1)]} if at[1] < len(coded[at[0]]) else {},
        lambda at: at[1] == len(coded[at[0]]),
        classes=3,
    )

    def written(pattern):
        before = "(?<![ab])" if bounded and pattern[0] != "-" else ""
        behind = "(?![ab])" if bounded and pattern[-1] != "-" else ""
        return before + re.escape(pattern) + behind

    expression = re.compile(f"(?={'|'.join(map(written, patterns))})")
    rows = Ragged.from_rows([[codes[sign] for sign in text] for text in texts], dtype=torch.int64)
    found = count(rows, automaton, torch.tensor([0, 1, 1], dtype=torch.uint8), bounded=bounded)
    assert found.tolist() == [len(expression.findall(text)) for text in texts]


class Loud(Spelled):
    def fold(self, text):
        return text.upper().encode()


def test_a_token_that_holds_a_part_of_a_character_keeps_its_other_bytes():
    """It is folded letter by letter."""
    assert Loud(tokenizer=Listed(["a"])).fold_bytes(b"a\xc3") == b"A\xc3"


def test_a_run_tells_the_tokenizer_and_without_one_it_is_asked_for():
    """The policy's, unless one was given."""

    class Run:
        class compiled:
            class plan:
                class context:
                    agents = {"policy": type("Agent", (), {"tokenizer": Listed(["x", "y"])})}

    part, given = Loud(), Loud(tokenizer=Listed(["z"]))
    with pytest.raises(UserError, match="does not know what the tokens spell"):
        part.pieces  # noqa: B018
    for each in (part, given):
        each.on_run_start(Run)
    assert (part.folded, given.folded) == ([b"X", b"Y"], [b"Z"])
