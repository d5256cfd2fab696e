"""The text that stands between two turns of the policy, from the chat template, without touching what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from dovetail.errors import DataError
from dovetail.messages import Message, ToolSpec

# Stands for what the policy said. No template has a reason to change it, and it is never turned into tokens.
_MARK = "[[what-the-policy-said]]"


@attrs.frozen(eq=False)
class Renderer:
    """Turns messages into text for one agent and the tools of one environment.

    Without a chat template the contents are joined as they are.
    """

    agent: Any
    tools: tuple[ToolSpec, ...] = ()
    keep_rewritten: bool = False

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to the policy's next word."""
        return self._render(messages, answer=True)

    def tail(self, messages: Sequence[Message]) -> str:
        """What the template writes after the policy's last word in a turn, such as an end token and a line break."""
        if not self._has_template:
            return ""
        return self._render([*messages, Message("assistant", _MARK)], answer=False).partition(_MARK)[2]

    def between(self, before: Sequence[Message], said: Message, heard: Sequence[Message]) -> str:
        """What stands between the policy's last word of the turn ``said`` and the first word of its next one.

        Raises:
            DataError: The template hides the turn, or changes what stood before it.
        """
        if not self._has_template:
            return "".join(message.content for message in heard)
        marked = self._render([*before, Message("assistant", _MARK), *heard], answer=True)
        if marked.count(_MARK) != 1:
            problem = f"the chat template of {self.agent.name!r} does not show an assistant's turn once, as it is"
            raise DataError(problem, hint="give the tokenizer a template that does")
        if not self.keep_rewritten:
            self._check(self.prompt(before), said.content, self.prompt([*before, said, *heard]))
        return marked.partition(_MARK)[2]

    def _check(self, earlier: str, said: str, later: str) -> None:
        """Refuse a template that shows what stood before, or what the policy said, otherwise than it was."""
        shown = later[len(earlier) :].lstrip()
        if later.startswith(earlier) and shown.startswith(said.strip()):  # some templates trim a turn, which is no harm
            return
        if later.startswith(earlier):
            was, now = said[:80], shown[:80]
        else:
            place = next(at for at, (a, b) in enumerate(zip(earlier, f"{later}\0", strict=False)) if a != b)
            was, now = (text[max(0, place - 40) : place + 40] for text in (earlier, later))
        raise DataError(
            f"the chat template of {self.agent.name!r} rewrites earlier turns, so the policy would not be trained on what "
            "it is shown",
            where=[f"it was {was!r}", f"now {now!r}"],
            hint="episodes: {rewrites: keep} goes on with the tokens as sampled; or take a template that rewrites nothing",
        )

    @property
    def _has_template(self) -> bool:
        return bool(self.agent.tokenizer.chat_template)

    def _render(self, messages: Sequence[Message], *, answer: bool) -> str:
        if not self._has_template:
            return "".join(message.content for message in messages)
        chat = [message.to_chat() for message in messages]
        tools = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in self.tools
        ]
        try:
            text = self.agent.tokenizer.apply_chat_template(
                chat, tools=tools or None, add_generation_prompt=answer, tokenize=False
            )
        except Exception as error:  # a template is a program of its own, and raises what it likes
            roles = ", ".join(message.role for message in messages)
            problem = f"the chat template of {self.agent.name!r} refuses the conversation: {error}"
            raise DataError(problem, where=[f"roles: {roles}"]) from error
        return str(text)
