"""Rows of preferences: what is read, and what is refused with its line."""

import json

import pytest

import dovetail as dt
from dovetail.errors import DataError
from dovetail.testing import tiny_agent
from dovetail_trainer.data import encode_rows, read_rows
from dovetail_trainer.layouts import demonstration, judged, labelled, layout_of, pair

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def turn(role, content):
    return {"role": role, "content": content}


def test_the_name_of_an_input_is_its_layout():
    """What is no preference is a demonstration."""
    layouts = {"pairs": pair, "labelled": labelled, "judged": judged, "rows": demonstration}
    assert {name: layout_of(name) for name in layouts} == layouts


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {**PAIR, "prompt": [turn("user", "p")], "chosen": [turn("assistant", "good")]},
        {
            "chosen": [turn("user", "p"), turn("assistant", "good")],
            "rejected": [turn("user", "p"), turn("assistant", "bad")],
        },
    ],
)
def test_pairs_are_texts_or_messages(row):
    """The better answer first; both in one group, and both with the prompt's tokens."""
    agent = tiny_agent()
    rows = encode_rows([row, row], agent, pair)
    assert rows.texts == ["good", "bad"] * 2
    assert rows.groups.tolist() == [0, 0, 1, 1]
    assert rows.tasks["label"] == [1.0, 0.0] * 2
    assert [agent.decode(prompt) for prompt in rows.prompts.tolist()] == ["p"] * 4


def test_a_transcript_is_its_text_up_to_the_last_answer():
    """As in hh-rlhf: earlier answers are prompt."""
    before = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant:"
    agent = tiny_agent()
    rows = encode_rows([{"chosen": f"{before} yes", "rejected": f"{before} no"}], agent, pair)
    assert rows.texts == [" yes", " no"]
    assert agent.decode(rows.prompts[0].tolist()) == before


def test_earlier_answers_of_a_prompt_are_no_targets():
    """With a chat template and without; of demonstrations they are."""
    prompt = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    for template in (None, CHAT):
        agent = tiny_agent()
        agent.tokenizer.chat_template = template
        rows = encode_rows([{**PAIR, "prompt": prompt}], agent, pair)
        assert [agent.decode(row) for row in rows.sampled.tolist()] == ["good", "bad"]
        shown = encode_rows([{"messages": [*prompt, turn("assistant", "d")]}], agent)
        assert agent.decode(shown.sampled[0].tolist()) == "bd"


def test_a_labelled_row_keeps_its_other_columns():
    """For losses and rewards that ask for them."""
    (example,) = labelled({"prompt": "p", "completion": "c", "label": True, "source": "x"})
    assert example.columns == {"label": 1.0, "source": "x"}


def test_a_row_is_known_by_its_id_or_its_content():
    """Whatever batch it is in."""
    agent, other = tiny_agent(), {**PAIR, "rejected": "worse"}
    first, second = (encode_rows(rows, agent, pair).tasks["id"] for rows in ([PAIR, other], [other, {**PAIR, "id": 7}]))
    assert first[2] == second[0] != first[0]
    assert second[2:] == ["7", "7"]


PAIR_MISTAKES = [
    ({**PAIR, "rejected": "good"}, "'chosen' and 'rejected' are equal"),
    ({**PAIR, "chosen": " \n"}, "the column 'chosen' is empty"),
    ({**PAIR, "rejected": ""}, "the column 'rejected' is empty"),
    ({"prompt": "p", "chosen": "c"}, r"no column 'rejected' \(it has: chosen, prompt\)"),
    ({"prompt": "p", "completion": "c"}, r"no column 'chosen' \(it has: completion, prompt\)"),
    ({"chosen": "c", "rejected": "r"}, "no column 'prompt', and 'chosen' is no transcript"),
    ({**PAIR, "chosen": 3}, "the column 'chosen' is int, not text"),
    ({**PAIR, "prompt": "good"}, "'prompt' and 'chosen' are equal: are columns swapped"),
    ({**PAIR, "margin": -1.5}, r"'chosen' is worse than 'rejected' \(margin -1.5\): are the columns swapped"),
    ({**PAIR, "score_chosen": 1, "score_rejected": 4}, r"worse than 'rejected' \(scores 1 and 4\)"),
    ({**PAIR, "margin": "much"}, "the column 'margin' is str 'much', not a number"),
    ({**PAIR, "chosen": [turn("user", "good")]}, "must hold one message of the assistant, and holds: user"),
    ({"chosen": [turn("user", "p")], "rejected": [turn("user", "p")]}, "does not end with a message of the assistant"),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: b\n\nAssistant: c"},
        "answer different prompts",
    ),
    ([PAIR], "a row must be an object, got list"),
]
LABEL_MISTAKES = [
    ({"prompt": "p", "completion": True, "label": "text"}, "the column 'completion' is bool, not text"),
    ({"prompt": "p", "completion": "c", "label": "yes"}, "the column 'label' is str 'yes', not true or false"),
    ({"prompt": "p", "completion": "c"}, "no column 'label'"),
    ({"prompt": "p", "completion": "", "label": True}, "the column 'completion' is empty"),
]


@pytest.mark.parametrize(
    ("layout", "row", "told"),
    [*((pair, *mistake) for mistake in PAIR_MISTAKES), *((labelled, *mistake) for mistake in LABEL_MISTAKES)],
)
def test_a_row_that_teaches_no_preference_is_refused_with_its_line(layout, row, told, tmp_path):
    """Equal, empty, missing, swapped, of another kind; skipped if that is asked for."""
    good = PAIR if layout is pair else {"prompt": "p", "completion": "c", "label": False}
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=told) as error:
        read_rows(dt.DataSettings(str(path)), layout)
    assert f"{path}:2" in str(error.value)
    assert len(read_rows(dt.DataSettings(str(path), on_broken="skip"), layout)) == 1


def test_judgements_are_pairs_about_objectives_and_answers_with_ratings():
    """One objective, a preference for each, and ratings; null is no label."""
    rated = {"prompt": "p", "completion": "fine", "ratings": {"help": 3, "harm": None}}
    rows = [
        {**PAIR, "objective": "help", "ratings": None},
        {**PAIR, "preferences": {"help": "rejected", "harm": "chosen", "style": None}},
        {**rated, "objective": None, "preferences": None},
    ]
    examples = [example for row in rows for example in judged(row)]
    assert [example.messages[-1].content for example in examples] == ["good", "bad", "good", "bad", "fine"]
    assert [dict(example.columns) for example in examples] == [
        {"preferences": {"help": 1.0}},
        {"preferences": {"help": 0.0}},
        {"preferences": {"help": 0.0, "harm": 1.0}},
        {"preferences": {"help": 1.0, "harm": 0.0}},
        {"ratings": {"help": 3.0}},
    ]


RATED = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (PAIR, "no column 'preferences'"),
        ({**PAIR, "preferences": {"help": "first"}}, "the preference for 'help' is 'first'"),
        ({**PAIR, "preferences": {"help": None}}, "no label for any objective"),
        ({**PAIR, "preferences": "help"}, "'preferences' is str, not an object"),
        ({**PAIR, "objective": "help", "preferences": {"harm": "chosen"}}, "both 'objective' and 'preferences'"),
        ({**PAIR, "objective": 3}, "'objective' is int, not text"),
        ({**PAIR, "chosen": "bad", "objective": "help"}, "are equal"),
        ({**RATED, "ratings": {}}, "no label for any objective"),
        ({**RATED, "ratings": {"help": "4"}}, "the rating for 'help' is str '4', not a number"),
        ({**RATED, "ratings": {"help": True}}, "the rating for 'help' is bool True"),
        ({**RATED, "ratings": {"help": float("nan")}}, "the rating for 'help' is float nan"),
        ({**RATED, "completion": " ", "ratings": {"help": 1}}, "'completion' is empty"),
        ({**PAIR, "ratings": {"help": 1}}, "no column 'completion'"),
    ],
)
def test_judgements_that_cannot_be_read_are_refused(row, told):
    """The error names the objective or the column."""
    with pytest.raises(DataError, match=told):
        judged(row)
