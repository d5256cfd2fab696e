"""The process that runs math-verify: JSON lines in, JSON lines out. It never evaluates model text as Python."""

from __future__ import annotations

import json
import logging
import resource
import sys

_MEMORY = 4 << 30


def main() -> None:
    """Answer until standard input ends."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answer_to = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps({"ready": True}), file=answer_to, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            # Its own timeouts rest on signals and are off: the parent kills this process at the deadline.
            gold = parse(_as_math(question["gold"]), parsing_timeout=None)
            answer = parse(_as_math(question["answer"]), parsing_timeout=None)
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
        except (Exception, RecursionError, MemoryError):  # whatever the text does to the parser, it is not the answer
            equal = False
        print(json.dumps({"equal": equal}), file=answer_to, flush=True)


def _as_math(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"


if __name__ == "__main__":
    main()
