"""Environments of OpenEnv servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, in_

from dovetail import Environment, Task, hookimpl

PLACE = "{text}"


@attrs.frozen
class OpenEnv:
    """Rewards are the server's own. Each episode has a connection, and so an environment, of its own.

    A task is what ``reset`` is given, by default a seed. An action that the server does not understand costs a turn and
    is told. If the server is gone or its environment fails, the sample is invalid, never 0.

    Args:
        url: Of the server, ``http://host:8000`` or ``https://…``.
        action: The fields of an action, with ``{text}`` where what the policy said belongs. Empty for servers whose
            environments are played by calls of tools alone.
        read: What ``{text}`` stands for: the whole ``text`` of the turn, its last ``number``, or its last ``json`` value,
            which also takes the place of the whole action if ``action`` is ``{text}`` alone.
        calls: How the policy writes calls of the tools that an MCP environment offers, ``hermes``, ``llama`` or ``json``;
            null for environments that have none.
        show: The field of an observation that the policy sees; null shows all of them as JSON, or the only text.
        prompt: The first message, with ``{observation}``.
        turn_prompt: The messages after that, with ``{observation}``.
        path: A JSONL file of tasks, each an object that ``reset`` is given, such as ``{"seed": 3, "level": 2}``. Null
            takes seeds.
        size: Seeds to train on, 0 to size - 1.
        test_size: Seeds of the test split, which follow; of a file so many of the last lines.
        max_turns: The episode is truncated after so many.
        timeout: Seconds for one answer of the server.
        wait: Seconds that a new episode waits for a place on a full server.
    """

    traits = ("multi_turn",)

    url: str
    action: Mapping[str, Any] | str = attrs.field(factory=lambda: {"message": PLACE})
    read: Literal["text", "number", "json"] = attrs.field(default="text", validator=in_(["text", "number", "json"]))
    calls: Literal["hermes", "llama", "json"] | None = attrs.field(
        default=None, validator=in_(["hermes", "llama", "json", None])
    )
    show: str | None = None
    prompt: str = "{observation}"
    turn_prompt: str = "{observation}"
    path: str | None = None
    size: int = attrs.field(default=256, validator=ge(1))
    test_size: int = attrs.field(default=64, validator=ge(0))
    max_turns: int = attrs.field(default=32, validator=ge(1))
    timeout: float = attrs.field(default=60.0, validator=gt(0))
    wait: float = attrs.field(default=600.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url begins with http:// or https://")
        if self.action and PLACE not in str(self.action):
            raise ValueError("action must hold {text}")
        if isinstance(self.action, str) and self.action not in ("", PLACE):
            raise ValueError("action is a mapping of fields, or {text} alone")
        if self.action == PLACE and self.read != "json":
            raise ValueError("an action that is {text} alone is read as json")
        if not self.action and self.calls is None:
            raise ValueError("it needs an action, or calls of tools")
        for name in ("prompt", "turn_prompt"):
            if "{observation}" not in getattr(self, name):
                raise ValueError(f"{name} must hold {{observation}}")

    @hookimpl
    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, ``train`` or ``test``; the server is asked whether it knows such actions.

        Raises:
            UserError: The server cannot be reached, or its actions have other fields.
            DataError: The file is missing, empty or broken.
        """
        from dovetail_openenv.tasks import check_server, tasks_of

        check_server(self)
        return tasks_of(self, split)

    @hookimpl
    async def make(self) -> Environment:
        """A fresh episode; it connects when it is reset."""
        from dovetail_openenv.episode import OpenEnvEpisode

        return OpenEnvEpisode(self)
