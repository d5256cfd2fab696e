"""Agents with real tokenizers and templates, a generator that babbles, environments that talk."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import dovetail as dt
from dovetail import Generated, Message, Ragged, StepResult, Task, hookimpl
from dovetail.registry import as_part

CHATML = (
    "{% if tools %}<|im_start|>system\nTools: {% for t in tools %}{{ t.function.name }} {% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "<|begin|>{% for m in messages %}<|header|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header|>\n\n"
    "{{ m.content }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
INST = (
    "<s>{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}</s>{% elif m.role == 'tool' %}"
    "[RESULT]{{ m.content }}[/RESULT]{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)
# As some templates of reasoning models do: what stands in <think> is dropped once the user speaks again.
FORGETFUL = CHATML.replace(
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}",
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n{% endif %}{% endfor %}",
)
TEMPLATES = {"chatml": (CHATML, "<|im_end|>"), "headers": (HEADERS, "<|eot|>"), "inst": (INST, "</s>")}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<s>", "</s>"]


@attrs.frozen
class Babbler:
    """Any printable tokens, from the row's seed alone; ends three turns in four by itself."""

    words: str = ""
    asked: list = attrs.field(factory=list, eq=False)

    @hookimpl
    def generate(self, model, tokenizer, prompts, samples, sampling, seeds):
        self.asked.append(len(prompts) * samples)
        printable = [token for token in range(len(tokenizer)) if _is_plain(tokenizer, token)]
        rows = []
        for seed in seeds.tolist():
            chance = random.Random(seed)
            words = tokenizer(self.words, add_special_tokens=False)["input_ids"] if self.words else None
            row = words or [chance.choice(printable) for _ in range(chance.randrange(1, 8))]
            ends = [tokenizer.eos_token_id] if chance.random() < 0.75 else []
            rows.append((row + ends)[: sampling.max_tokens])
        completions = Ragged.from_rows(rows, dtype=torch.int64)
        reasons = tuple("stop" if row[-1] in sampling.stop_tokens else "length" for row in rows)
        return Generated(completions, completions.with_values(-(completions.values % 7) / 10), reasons)


_plain: dict[tuple[int, int], bool] = {}


def _is_plain(tokenizer, token):
    key = (id(tokenizer), token)
    if key not in _plain:
        text = tokenizer.decode([token])
        _plain[key] = bool(text) and text.isascii() and text.isprintable() and token not in tokenizer.all_special_ids
    return _plain[key]


@pytest.fixture(scope="session")
def agent_of(tmp_path_factory) -> Callable[..., dt.Agent]:
    """agent_of(template, end, generator): a loaded agent whose tokenizer has merges and this template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = Path(__file__).read_text(encoding="utf-8")

    def make(template: str | None, end: str, generator: Any) -> dt.Agent:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet)
        tokenizer.train_from_iterator([text], trainer)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
        fast.add_special_tokens({"additional_special_tokens": SPECIAL})
        fast.chat_template = template
        config = LlamaConfig(
            vocab_size=len(fast), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=2048, eos_token_id=fast.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("agent")
        LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)
        return dt.Agent(folder, generator=as_part("generators", generator))

    return make


@attrs.frozen
class Talk:
    """Says something random after each turn, for as many turns as the seed says."""

    turns: int = 6
    roles: tuple = ("tool", "user")
    traits = ("multi_turn",)

    @hookimpl
    def tasks(self, split):
        return [Task(str(row), (Message("user", f"question {row}"),)) for row in range(50)]

    @hookimpl
    async def make(self):
        return TalkEpisode(self)


class TalkEpisode:
    tools = (dt.ToolSpec("look", "look it up"),)
    agents = ("agent",)

    def __init__(self, options):
        self.options = options

    async def reset(self, *, seed, task=None):
        self.chance, self.left = random.Random(f"{seed}{task.id}"), self.options.turns
        self.left = self.chance.randrange(1, self.options.turns + 1)
        return StepResult(messages=task.messages)

    async def step(self, action):
        self.left -= 1
        words = ["".join(self.chance.choices("abc <>{}\n1é", k=self.chance.randrange(12))) + "." for _ in range(2)]
        said = [Message(self.chance.choice(self.options.roles), word) for word in words[: self.chance.randrange(1, 3)]]
        return StepResult(messages=said, reward=len(action.content) / 10, terminated=self.left <= 0)

    async def close(self):
        pass
