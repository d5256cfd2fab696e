"""Where prompts become judgements: what is known already is taken from the file, the rest is asked once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from dovetail import Invalid, Message
from dovetail_chat import Failed, Voice
from dovetail_judge.prompts import Nonsense

if TYPE_CHECKING:
    from dovetail_judge import Judge

_log = structlog.get_logger()


class Desk:
    """A voice and the file of its judgements."""

    def __init__(self, voice: Voice, cache: Cache | None) -> None:
        self._voice, self._cache = voice, cache

    @classmethod
    def of(cls, options: Judge, folder: Path | None) -> Desk:
        """As the options say. A relative cache needs a folder; without one nothing is kept."""
        path = None if options.cache is None else Path(options.cache)
        if path is not None and not path.is_absolute():
            path = folder / path if folder is not None else None
        return cls(options.voice(), Cache(path) if path is not None else None)

    async def judge(self, prompts: Sequence[str], read: Callable[[str], float]) -> list[float | Invalid]:
        """The number that ``read`` finds in the judgement of each prompt, or why there is none.

        Equal prompts are asked once. A judgement is kept only if it could be read: nonsense is asked for again.
        """
        found: dict[str, float | Invalid] = {}
        distinct = list(dict.fromkeys(prompts))
        asked = [prompt for prompt in distinct if not self._recall(prompt, read, found)]

        def tell(number: int, answer: str | Failed) -> None:
            prompt = asked[number]
            if isinstance(answer, Failed):
                found[prompt] = Invalid(f"no judgement: {answer}")
                return
            try:
                found[prompt] = read(answer)
            except Nonsense as error:
                found[prompt] = Invalid(str(error))
            else:
                self._keep(prompt, answer)

        if asked:
            await self._voice.ask([[Message("user", prompt)] for prompt in asked], tell)
        return [found.get(prompt, Invalid("the judge gave no answer")) for prompt in prompts]

    def close(self) -> None:
        """Close the file."""
        if self._cache is not None:
            self._cache.close()

    def _recall(self, prompt: str, read: Callable[[str], float], found: dict[str, float | Invalid]) -> bool:
        answer = self._cache.get(self._key(prompt)) if self._cache is not None else None
        if answer is None:
            return False
        try:
            found[prompt] = read(answer)
        except Nonsense:
            return False
        return True

    def _keep(self, prompt: str, answer: str) -> None:
        if self._cache is not None:
            self._cache.put(self._key(prompt), answer)

    def _key(self, prompt: str) -> str:
        known = json.dumps([self._voice.settings.identity(), prompt], sort_keys=True, default=str)
        return hashlib.sha256(known.encode("utf-8", "replace")).hexdigest()


class Cache:
    """Judgements in a file that several processes may share. One that cannot be used is reported once and left."""

    def __init__(self, path: Path) -> None:
        self._lock, self._database = threading.Lock(), None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            self._leave(error, path)

    def get(self, key: str) -> str | None:
        """The answer, if it is known."""
        rows = self._run("SELECT answer FROM judgements WHERE key = ?", key)
        return rows[0][0] if rows else None

    def put(self, key: str, answer: str) -> None:
        """Keep an answer."""
        self._run("INSERT OR REPLACE INTO judgements VALUES (?, ?)", key, answer)

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _run(self, statement: str, *values: str) -> list[tuple[str]]:
        with self._lock:
            if self._database is None:
                return []
            try:
                return self._database.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                self._leave(error)
                return []

    def _leave(self, error: Exception, path: Path | None = None) -> None:
        self._database = None
        _log.warning("judgements are not kept: the file cannot be used", path=str(path or ""), error=str(error))
