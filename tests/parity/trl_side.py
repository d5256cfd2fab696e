"""TRL's own code on given tensors: its trainer, built with a tiny model whose log-probs are then not asked."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import shutil
import tempfile
import warnings
from typing import Any

import torch

from dovetail import Ragged, Rollouts

GROUP = 4


@functools.cache
def _model() -> tuple[str, Any]:
    """The folder of the smallest model that a trainer accepts, and its tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tempfile.mkdtemp(prefix="parity-")
    atexit.register(shutil.rmtree, folder)
    config = LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{token}": token for token in range(8)}, unk_token="w2"))
    return folder, PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")


def trainer(cls: Any, config: type, options: dict[str, Any]) -> Any:
    """One of TRL's online trainers with these fields of its configuration."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from datasets import Dataset

    model, tokenizer = _model()
    made = cls(
        model=model,
        processing_class=tokenizer,
        reward_funcs=lambda completions, **columns: [0.0 for _ in completions],
        args=config(
            output_dir=tempfile.gettempdir(), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            per_device_train_batch_size=2 * GROUP, num_generations=GROUP, **options,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["w3"] * 8}),
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    logging.disable(logging.NOTSET)
    return made


@functools.cache
def _online(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    home = importlib.import_module("trl.experimental.gmpo" if name == "GMPO" else "trl")
    return trainer(getattr(home, f"{name}Trainer"), getattr(home, f"{name}Config"), dict(options))


def policy_loss(rollouts: Rollouts, given: dict[str, Ragged], options: dict[str, Any], name: str = "GRPO") -> Any:
    """Value and gradient of the trainer's ``compute_loss``; ``advantages`` must be one number for a sequence."""
    side = _online(name, tuple(options.items()))
    live = given["logprobs"].with_values(given["logprobs"].values.clone().requires_grad_())
    padded = {name: value.to_padded() for name, value in given.items()}
    mask = rollouts.sampled.to_padded() != 0
    side._get_per_token_logps_and_entropies = lambda *a, **k: (live.to_padded(), padded["entropy"], None)
    loss = side.compute_loss(side.model, {
        "prompt_ids": mask[:, :0].long(), "prompt_mask": mask[:, :0].long(),
        "completion_ids": mask.long(), "completion_mask": mask.long(),
        "advantages": given["advantages"].mean(),
        "old_per_token_logps": padded["old_logprobs"], "ref_per_token_logps": padded["ref_logprobs"],
        "num_items_in_batch": mask.sum(),
    })  # fmt: skip
    loss.backward()
    return loss.detach(), {"logprobs": live.values.grad}


def advantages(name: str, options: dict[str, Any], rewards: Any) -> Any:
    """``[B]`` advantages that the trainer ``name`` takes of ``[B, K]`` rewards, groups of GROUP side by side, K functions."""
    side = _online(name, tuple(options.items()))
    rows, parts = rewards.shape
    side.reward_funcs, side.reward_func_names = [None] * parts, [str(part) for part in range(parts)]
    side.reward_processing_classes, side.reward_weights = [None] * parts, torch.ones(parts, dtype=rewards.dtype)
    side._calculate_rewards = lambda *given: rewards.clone()
    prompts, answers, texts = [[3]] * rows, [[3, 4, 1]] * rows, [""] * rows
    generated = {"GRPO": (prompts, answers, None, texts, None, {}, None, []), "RLOO": (prompts, answers, texts)}[name]
    side._generate = lambda *given: generated
    side.model.train()
    return side._generate_and_score_completions([{"prompt": "w3"}] * rows)["advantages"]
