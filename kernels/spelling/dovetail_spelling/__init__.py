"""What tokens spell: tables that let kernels read text off token ids, for any tokenizer."""

from dovetail_spelling.listed import ENGLISH, Listed
from dovetail_spelling.matches import MATCHES, Automaton, count, count_plainly, first_begins
from dovetail_spelling.part import Spelled
from dovetail_spelling.pieces import pieces
from dovetail_spelling.table import SEPARATOR, Table

__all__ = [
    "ENGLISH",
    "MATCHES",
    "SEPARATOR",
    "Automaton",
    "Listed",
    "Spelled",
    "Table",
    "count",
    "count_plainly",
    "first_begins",
    "pieces",
]
