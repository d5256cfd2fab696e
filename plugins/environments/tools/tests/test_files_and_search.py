"""The working folder cannot be left; search finds what BM25 finds."""

from __future__ import annotations

import asyncio
import json
import math
import os

import pytest

import dovetail as dt
from dovetail.errors import DataError
from dovetail_tools.files import LARGEST, Files
from dovetail_tools.search import Document, Index, shared_index
from dovetail_tools.tool import ToolError


@pytest.fixture
def files():
    kit = Files()
    kit.fill({"notes.txt": "hello", "deep/er/a.txt": "a"})
    yield kit
    kit.remove()


def test_files_are_written_read_and_listed(files):
    """Folders on the way are made."""
    assert files.list_files() == "deep/\nnotes.txt"
    assert files.read_file("./deep//er/a.txt") == "a"
    assert files.write_file("notes.txt", "né") == "3 bytes written"
    assert files.read_file("notes.txt") == "né"
    assert files.write_file("new/b.txt", "") == "0 bytes written"
    assert files.list_files("new") == "b.txt"


OUTSIDE = ["/etc/passwd", "../secret", "deep/../../secret", "..", "deep/er/../../../x", "", ".", "a\0b", "link", "link/x",
           "linked.txt", "hard.txt", "notes.txt/x", "deep", "pipe", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_leads_out(files, path, tmp_path):
    """Neither by ``..`` nor by a link of any kind, for reading or writing; the refusal shows no path of the host."""
    (tmp_path / "secret").write_text("secret")
    (files._root / "link").symlink_to(tmp_path)
    (files._root / "linked.txt").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", files._root / "hard.txt")
    os.mkfifo(files._root / "pipe")
    with pytest.raises(ToolError) as error:
        files.write_file(path, "overwritten")
    assert str(files._root) not in str(error.value)
    if path != "hard.txt":  # a hard link can only be made from outside, by one who may read the file
        with pytest.raises(ToolError):
            files.read_file(path)
    assert (tmp_path / "secret").read_text() == "secret"


def test_limits_are_told(files):
    """On the size of a file, and on how many there are."""
    with pytest.raises(ToolError, match="may have"):
        files.write_file("big", "x" * (LARGEST + 1))
    for number in range(252):  # beside two files and two folders
        files.write_file(f"{number}", "")
    with pytest.raises(ToolError, match="there may be 256"):
        files.write_file("one more", "")


def test_binary_is_no_text(files):
    """It is told, not decoded somehow."""
    (files._root / "image").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ToolError, match="no text: 5 bytes"):
        files.read_file("image")


def test_each_episode_has_a_folder_of_its_own_and_leaves_none():
    """Also where the task brings files along."""
    part = dt.environments.tools(tools=["files"])
    task = dt.Task("0", (dt.Message("user", "?"),), answer="1", columns={"files": {"a.txt": "1"}})

    async def go():
        one, two = await part.instance.make(), await part.instance.make()
        for each in (one, two):
            await each.reset(seed=0, task=task)
        roots = [each._toolbox._kits[0]._root for each in (one, two)]
        said = '<tool_call>{"name": "write_file", "arguments": {"path": "a.txt", "content": "2"}}</tool_call>'
        await one.step(dt.Message("assistant", said))
        contents = [(root / "a.txt").read_text() for root in roots]
        for each in (one, two):
            await each.close()
        return contents, [root.exists() for root in roots]

    assert asyncio.run(go()) == (["2", "1"], [False, False])


TEXTS = ["the cat sat on the mat", "a cat and a dog", "the dog barks at the cat cat cat", "nothing here", ""]


def bm25(query, k1=1.2, b=0.75):
    """Written from the formula, a document at a time."""
    documents = [text.split() for text in TEXTS]
    mean, count, scores = sum(map(len, documents)) / len(documents), len(documents), []
    for words in documents:
        score = 0.0
        for term in query.split():
            n = sum(term in other for other in documents)
            f = words.count(term)
            idf = math.log(1 + (count - n + 0.5) / (n + 0.5))
            score += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(words) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["cat", "the dog", "mat barks", "unknown", "cat cat"])
def test_search_scores_as_the_formula_says(query):
    """Against a plain reference."""
    found = dict(Index([Document("", text) for text in TEXTS]).best(query, 20))
    expected = {place: score for place, score in enumerate(bm25(query)) if score}
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[place], expected[place]) for place in expected)


def test_search_is_a_tool_over_a_file(tmp_path):
    """The best text first; a file without texts is told."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"title": f"t{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    part = dt.environments.tools(tools=["search"], corpus=str(path))

    async def go():
        environment = await part.instance.make()
        return await environment._toolbox.call("search", '{"query": "cat dog", "limit": 2}')

    assert asyncio.run(go()).text.split("\n")[0] in ("t1", "t2")
    with pytest.raises(ToolError, match="limit"):
        shared_index(str(path)).find("cat", 0)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no texts"):
        shared_index(str(tmp_path / "empty.jsonl"))
