"""From a tokenizer to the bytes of each of its tokens."""

from __future__ import annotations

import functools
import re
from typing import Any


def pieces(tokenizer: Any) -> list[bytes]:
    """The UTF-8 bytes that each token stands for within a text; of special tokens none, and of ids without a token.

    A token may hold a part of a character only; the bytes of a sequence's tokens, one after another, are its text.
    Byte-level BPE, SentencePiece models with or without byte fallback, and tokenizers whose tokens are plain text
    (characters) are read by their vocabulary; all others token by token through ``decode``.

    Args:
        tokenizer: Of transformers.
    """
    added = dict(tokenizer.added_tokens_decoder)
    special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(max([len(tokenizer), *(number + 1 for number in added)]))))
    read = _reader(tokenizer)
    found = []
    for number, name in enumerate(names):
        if number in special or name is None:
            found.append(b"")
        elif number in added:
            found.append(added[number].content.encode())
        else:
            found.append(read(number, name))
    return found


def _reader(tokenizer: Any) -> Any:
    """A function from a token's number and name to its bytes."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = decoder.__getstate__().decode() if decoder is not None else ""
    if "ByteLevel" in state:
        letters = _bytes_of_letters()
        return lambda _, name: bytes(letters[letter] for letter in name)
    if "▁" in state or "Metaspace" in state or "ByteFallback" in state:
        return lambda _, name: _sentencepiece(name)
    if state in ("", '{"type":"Fuse"}'):
        return lambda _, name: name.encode()
    return lambda number, _: tokenizer.decode([number]).encode()


def _sentencepiece(name: str) -> bytes:
    if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name):
        return bytes([int(byte[1], 16)])
    return name.replace("▁", " ").encode()


@functools.cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for letters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
