"""The tokens of an episode, each with its origin, as they come: nothing is ever tokenised twice."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from dovetail.messages import Message
from dovetail.rollouts import Origin
from dovetail_episodes.rendering import Renderer


@attrs.define(eq=False)
class Conversation:
    """What one agent has heard and said in an episode, as messages and as tokens."""

    renderer: Renderer
    stop_tokens: frozenset[int]  #: that end a turn
    messages: list[Message] = attrs.field(factory=list)
    tokens: list[int] = attrs.field(factory=list)
    origin: list[Origin] = attrs.field(factory=list)
    logprobs: list[float] = attrs.field(factory=list)  # of the sampled tokens
    turns: list[int] = attrs.field(factory=list)  # where each turn starts among the sampled tokens
    rewards: list[float] = attrs.field(factory=list)  # of each turn
    is_cut: bool = False  # whether a limit, not a stop token, ended the last turn
    _before: tuple[int, int] = (0, 0)  # tokens and messages before what was heard last
    _tail: str | None = None  # what the template writes after each turn of the policy
    _pending: tuple[int, Message] | None = None  # the last turn: where it lies among the messages, and itself

    def hear(self, messages: Sequence[Message]) -> None:
        """Append what the environment says, up to the place where the policy speaks again.

        Raises:
            DataError: The chat template cannot continue the conversation.
        """
        agent = self.renderer.agent
        self._before = len(self.tokens), len(self.messages)
        if self._pending is None:
            self._append(agent.encode_text(self.renderer.prompt(messages)), Origin.PROMPT)
        else:
            place, said = self._pending
            between = self.renderer.between(self.messages[:place], said, messages)
            if self._tail is None:
                self._tail = self.renderer.tail(self.messages[:place])
            tail = self._tail if between.startswith(self._tail) else ""
            self._append(self._closing(tail), Origin.FORCED)
            from_tools = any(message.role == "tool" for message in messages)
            self._append(self._encode(between[len(tail) :]), Origin.TOOL if from_tools else Origin.PROMPT)
            self._pending = None
        self.messages += messages

    def unhear(self) -> None:
        """Forget what was heard last: the policy will not answer it, and it may not fit the model."""
        tokens, messages = self._before
        del self.tokens[tokens:], self.origin[tokens:], self.messages[messages:]

    def say(self, tokens: Sequence[int], logprobs: Sequence[float]) -> Message:
        """Append what the policy sampled in a turn, and give it as a message."""
        self.turns.append(len(self.logprobs))
        self.rewards.append(0.0)
        self._append(tokens, Origin.SAMPLED)
        self.logprobs += logprobs
        self.is_cut = not tokens or tokens[-1] not in self.stop_tokens
        message = Message("assistant", self.renderer.agent.decode(list(tokens)))
        self._pending = (len(self.messages), message)
        self.messages.append(message)
        return message

    def _closing(self, tail: str) -> list[int]:
        """The tokens that close the policy's turn, without the end token if it sampled one."""
        tokenizer = self.renderer.agent.tokenizer
        if not tokenizer.chat_template:
            return [tokenizer.eos_token_id] if self.is_cut else []
        end = "" if self.is_cut else tokenizer.decode([self.tokens[-1]], skip_special_tokens=False)
        return self._encode(tail.removeprefix(end))

    def _encode(self, text: str) -> list[int]:
        return list(self.renderer.agent.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _append(self, tokens: Sequence[int], origin: Origin) -> None:
        self.tokens += tokens
        self.origin += [origin] * len(tokens)
