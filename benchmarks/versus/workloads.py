"""The work that both sides do: models with random weights, prompts, lengths, a reward."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs

Result = tuple[float, dict[str, Any]]  # a loss, and gradients by name

LEARNING_RATE = 1e-6
PAD, END = 0, 1
MOST_PROMPTS = 512


@attrs.frozen
class Model:
    """A Llama-style model.

    Args:
        hidden: Width.
        layers: Number of layers.
        heads: Attention heads.
        vocabulary: Tokens, of which two are special.
    """

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    context: int = 1024

    @property
    def intermediate(self) -> int:
        return -(-self.hidden * 8 // 3 // 32) * 32


TINY = Model(hidden=128, layers=4, heads=4, vocabulary=96)
SMALL = Model(hidden=256, layers=6, heads=4, vocabulary=8_192)
MEDIUM = Model(hidden=512, layers=8, heads=8, vocabulary=32_768)


@attrs.frozen
class Workload:
    """One GRPO step: ``prompts`` times ``group`` completions, a reward for each, one optimizer step.

    Args:
        name: In the tables.
        model: What learns.
        prompts: Of a step.
        group: Completions of a prompt.
        prompt_tokens: Least and most tokens of a prompt.
        completion_tokens: Least and most; where they differ, the end token decides.
        beta: Weight of the KL penalty; above 0 a reference model is asked.
    """

    name: str
    model: Model
    prompts: int
    group: int
    prompt_tokens: tuple[int, int]
    completion_tokens: tuple[int, int]
    beta: float = 0.0

    @property
    def ragged(self) -> bool:
        return self.completion_tokens[0] != self.completion_tokens[1]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1 short", TINY, 8, 8, (6, 6), (32, 32)),
        Workload("W2 long", TINY, 8, 8, (6, 6), (128, 128)),
        Workload("W3 ragged", TINY, 16, 8, (6, 40), (8, 256)),
        Workload("W4 long prompt", SMALL, 4, 16, (512, 512), (32, 32)),
        Workload("W5 big vocabulary", MEDIUM, 8, 8, (6, 6), (32, 32)),
        Workload("W6 with reference", SMALL, 4, 16, (512, 512), (32, 32), beta=0.04),
    )
}


def by_key(key: str) -> Workload:
    """A workload by the first word of its name, with changes after commas: ``W1,group=16``."""
    name, *changes = key.split(",")
    found = next((workload for title, workload in WORKLOADS.items() if title.split()[0] == name), None)
    if found is None:
        raise SystemExit(f"no workload is called {name!r}; there are {', '.join(t.split()[0] for t in WORKLOADS)}")
    for change in changes:
        field, _, value = change.partition("=")
        number = int(value)
        pair = (number, number)
        found = attrs.evolve(found, name=key, **{field: pair if field.endswith("_tokens") else number})
    return found


def write_model(workload: Workload, folder: Path, seed: int = 0) -> Path:
    """Random weights and a tokenizer whose words are the tokens, in the Hugging Face layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = workload.model
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=model.hidden, num_hidden_layers=model.layers, num_attention_heads=model.heads,
        intermediate_size=model.intermediate, vocab_size=model.vocabulary, max_position_embeddings=model.context,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(model.vocabulary, folder)


def write_tokenizer(vocabulary: int, folder: Path) -> Path:
    """A tokenizer whose words are the tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word(token): token for token in range(vocabulary)}, unk_token=word(2)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token=word(PAD), eos_token=word(END)).save_pretrained(folder)
    return folder


def word(token: int) -> str:
    return f"w{token}"


def prompts(workload: Workload, seed: int = 0) -> list[str]:
    """As many distinct prompts as a run can ask for."""
    draw = random.Random(seed)
    least, most = workload.prompt_tokens
    vocabulary = workload.model.vocabulary
    lengths = [draw.randint(least, most) for _ in range(MOST_PROMPTS)]
    return [" ".join(word(draw.randrange(2, vocabulary)) for _ in range(length)) for length in lengths]


def reward(tokens: Any) -> float:
    """The share of odd token ids: cheap, and different for every completion."""
    return sum(token % 2 for token in tokens) / max(len(tokens), 1)


# ---- one batch, for comparisons of loss and gradient


def completions(workload: Workload) -> list[list[int]]:
    """Random completions of a batch; those shorter than the most end with the end token."""
    import torch

    draw = torch.Generator().manual_seed(1)
    least, most = workload.completion_tokens
    rows = []
    for _ in range(workload.prompts * workload.group):
        length = int(torch.randint(least, most + 1, (), generator=draw))
        row = torch.randint(2, workload.model.vocabulary, (length,), generator=draw).tolist()
        rows.append([*row[:-1], END] if length < most else row)
    return rows


def perturb(model: Any) -> None:
    """Move the policy away from the reference, so that a KL penalty has something to say."""
    import torch

    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw).to(parameter)
            parameter.add_(noise, alpha=0.1 * float(parameter.std()) if parameter.numel() > 1 else 0.0)


def gradients(model: Any) -> dict[str, Any]:
    """Copies on the CPU, by name."""
    return {name: parameter.grad.detach().cpu() for name, parameter in model.named_parameters()}
