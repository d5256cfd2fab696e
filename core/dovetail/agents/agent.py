"""Agent: model, tokenizer, optimizer, value head, adapters and generator in one place."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from dovetail.agents.learning import Learning
from dovetail.agents.loading import (
    add_lora,
    check_head,
    check_tokenizer,
    head_of,
    load_pretrained,
    no_progress_bar,
    takes_attention_mask,
    without_dropout,
)
from dovetail.agents.tiny import build_tiny
from dovetail.errors import DataError, DovetailError, UserError
from dovetail.messages import Task
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.registry import as_part
from dovetail.rollouts import Generated
from dovetail.runtime.linear_logprob import Head
from dovetail.sampling import Sampling
from dovetail.settings import LoraSettings, OptimizerSettings, TinySettings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
DtypeName = Literal["float32", "bfloat16", "float16", "float64"]


class Agent:
    """A language model that samples, is asked for log-probs or values, and may learn. It is loaded when first used.

    Args:
        name_or_path: A folder in the Hugging Face layout, or the name of a model on the hub.
        trainable: Whether it learns.
        generator: Registry name or part that samples from it.
        lora: Learn low-rank adapters instead of all weights.
        head: ``value`` adds a scalar head, starting at 0.
        optimizer: How it learns.
        dtype: Of the weights.
        device: ``auto`` takes CUDA if there is one.
        autocast: ``bfloat16`` runs matrix products in it while the weights keep ``dtype``.
        gradient_checkpointing: Recompute activations in backward: less memory, about a third more time.
        share_prompts: Read the prompt of a group once where that is cheaper and the model allows it; no number changes.
        trust_remote_code: Run code that comes with the model. Off unless asked.
        tiny: Build a small random model instead of loading one.
    """

    def __init__(
        self,
        name_or_path: str | Path | None = None,
        *,
        trainable: bool = False,
        generator: str | Part = "native",
        lora: LoraSettings | None = None,
        head: Literal["value"] | None = None,
        optimizer: OptimizerSettings | None = None,
        dtype: DtypeName = "float32",
        device: str = "auto",
        autocast: Literal["bfloat16", "float16"] | None = None,
        gradient_checkpointing: bool = False,
        share_prompts: bool = True,
        trust_remote_code: bool = False,
        tiny: TinySettings | None = None,
    ) -> None:
        if (name_or_path is None) == (tiny is None):
            raise UserError(
                "an agent needs a model", hint="dt.Agent(<name or path>), or dt.Agent.tiny() for a small one"
            )
        for label, value in (("dtype", dtype), ("autocast", autocast or "float32")):
            if value not in _DTYPES:
                raise UserError(f"{label} {value!r} is unknown", hint=f"one of {', '.join(_DTYPES)}")
        self.name = str(name_or_path) if name_or_path is not None else "tiny"
        self.settings: dict[str, Any] = {
            "generator": generator, "lora": lora, "head": head, "optimizer": optimizer or OptimizerSettings(),
            "dtype": dtype, "device": device, "autocast": autocast, "gradient_checkpointing": gradient_checkpointing,
            "share_prompts": share_prompts, "trust_remote_code": trust_remote_code, "tiny": tiny,
        }  # fmt: skip
        self.trainable = trainable
        self.version = 0
        self._path = name_or_path

    @classmethod
    def tiny(cls, **options: Any) -> Agent:
        """A small local model with random weights. Takes the options of TinySettings and of Agent."""
        names = {field.name for field in attrs.fields(TinySettings)}
        shape = {key: value for key, value in options.items() if key in names}
        rest = {key: value for key, value in options.items() if key not in names}
        return cls(tiny=TinySettings(**shape), **rest)

    # ---- loading

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        settings = self.settings
        dtype = _DTYPES[settings["dtype"]]
        if settings["tiny"] is not None:
            model, tokenizer = build_tiny(settings["tiny"])
            model = model.to(dtype)
        else:
            remote = settings["trust_remote_code"]
            model, tokenizer = load_pretrained(str(self._path), dtype, trust_remote_code=remote)
        check_tokenizer(tokenizer, self.name)
        model = without_dropout(model).to(self.device)
        model.requires_grad_(self.trainable)
        if settings["gradient_checkpointing"] and self.trainable:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        if settings["lora"] is not None and self.trainable:
            model = add_lora(model, settings["lora"])
        return model, tokenizer

    @property
    def model(self) -> Any:
        """The transformers model, or the peft model around it."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self._loaded[1]

    @property
    def is_loaded(self) -> bool:
        return "_loaded" in self.__dict__

    @cached_property
    def device(self) -> torch.device:
        name = self.settings["device"]
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)

    @cached_property
    def generator(self) -> Part:
        """The part that samples."""
        return as_part("generators", self.settings["generator"])

    @property
    def _causal(self) -> Any:
        """The causal model itself, adapters inside."""
        model = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @cached_property
    def value_head(self) -> torch.nn.Linear:
        """``[D] -> 1``, float32, starting at 0.

        Raises:
            DovetailError: The agent was made without one.
        """
        if self.settings["head"] != "value":
            raise DovetailError(f"the agent {self.name!r} has no value head", hint='dt.Agent(…, head="value")')
        head = torch.nn.Linear(self._causal.config.get_text_config().hidden_size, 1, device=self.device)
        if self.settings["dtype"] == "float64":
            head = head.double()
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return head.requires_grad_(self.trainable)

    # ---- text and tokens

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens, if the model has a limit."""
        return getattr(self._causal.config.get_text_config(), "max_position_embeddings", None)

    def encode(self, tasks: Sequence[Task]) -> Ragged:
        """Prompts as token ids, through the chat template if the tokenizer has one.

        Raises:
            DataError: A prompt is empty, or leaves no room in the context.
        """
        rows = [self.encode_text(self.render(task)) for task in tasks]
        for task, row in zip(tasks, rows, strict=True):
            self._check_prompt(f"the prompt of task {task.id!r}", len(row))
        return Ragged.from_rows(rows, dtype=torch.int64)

    def _check_prompt(self, label: str, length: int) -> None:
        if length == 0:
            raise DataError(f"{label} has no tokens", hint="give every prompt at least one token")
        if self.context is not None and length >= self.context:
            raise DataError(
                f"{label} has {length} tokens, and {self.name!r} has a context of {self.context}",
                hint="shorten or filter the prompts",
            )

    def render(self, task: Task) -> str:
        """The text that the policy is given."""
        if self.tokenizer.chat_template:
            chat = [message.to_chat() for message in task.messages]
            return str(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        return "".join(message.content for message in task.messages)

    def encode_text(self, text: str) -> list[int]:
        templated = bool(self.tokenizer.chat_template)
        return list(self.tokenizer(text, add_special_tokens=not templated)["input_ids"])

    def decode(self, tokens: list[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def generate(self, prompts: Ragged, samples: int, sampling: Sampling, seeds: Tensor) -> Generated:
        """Sample through the generator part. The end tokens of tokenizer and model join the record's stop tokens.

        Raises:
            DataError: A prompt is empty, or leaves no room in the context.
        """
        for row, length in enumerate(prompts.lengths.tolist()):
            self._check_prompt(f"prompt {row}", length)
        sampling = attrs.evolve(sampling, stop_tokens=self.stop_tokens(sampling))
        with torch.no_grad(), self._precision():
            arguments = {
                "model": self.model.eval(), "tokenizer": self.tokenizer, "prompts": prompts, "samples": samples,
                "sampling": sampling, "seeds": seeds,
            }  # fmt: skip
            result = self.generator.call("generate", arguments)
        if not isinstance(result, Generated) or len(result.completions) != len(prompts) * samples:
            raise self.generator.error(f"generate must return Generated with {len(prompts) * samples} completions")
        return result

    def stop_tokens(self, sampling: Sampling) -> tuple[int, ...]:
        """Ids that end a completion."""
        configured = getattr(getattr(self._causal, "generation_config", None), "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        ids = {self.tokenizer.eos_token_id, *listed, *sampling.stop_tokens}
        return tuple(sorted(token for token in ids if token is not None))

    # ---- model passes

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        autocast = self.settings["autocast"]
        if autocast is None:
            yield
        else:
            with torch.autocast(self.device.type, dtype=_DTYPES[autocast]):
                yield

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Last hidden states ``[B, T, D]`` of ``tokens`` ``[B, T]``.

        Args:
            tokens: Padded on the right.
            mask: ``[B, T]``, what is no padding; or ``[B, 1, T, T]``, which token attends to which.
            positions: ``[B, T]``; None counts the columns.
        """
        # transformers recomputes activations only in training mode; dropout is off in either.
        self.model.train(bool(self.settings["gradient_checkpointing"]) and torch.is_grad_enabled())
        placed = {} if positions is None else {"position_ids": positions}
        with self._precision():
            mask = mask.long() if mask.ndim == 2 else mask
            output = self._causal.base_model(input_ids=tokens, attention_mask=mask, use_cache=False, **placed)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @cached_property
    def packing_width(self) -> int | None:
        """Width of the hidden states if rows that share a prompt can be read as one sequence, else None."""
        if not self.settings["share_prompts"] or not takes_attention_mask(self._causal, self.hidden):
            return None
        return int(self._causal.config.get_text_config().hidden_size)

    def head(self) -> Head:
        """The output layer; checked once against the model's own logits."""
        return head_of(self._causal, self.name) if self._head_is_checked else Head(torch.empty(0))

    @cached_property
    def _head_is_checked(self) -> bool:
        count = min(8, self._causal.config.get_text_config().vocab_size)
        tokens = torch.arange(count, device=self.device)[None]
        with torch.no_grad():
            hidden = self.hidden(tokens, torch.ones_like(tokens))
            with self._precision():
                check_head(self._causal, hidden, tokens, head_of(self._causal, self.name), self.name)
        return True

    def value(self, hidden: Tensor) -> Tensor:
        """``[N, D]`` hidden states to ``[N]`` values, float32."""
        values: Tensor = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        return values

    # ---- learning

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What learns, by name."""
        found = {f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.settings["head"] == "value":
            found.update({f"value_head.{name}": p for name, p in self.value_head.named_parameters()})
        return found

    @cached_property
    def learning(self) -> Learning:
        if not self.trainable:
            raise DovetailError(f"the agent {self.name!r} is not trainable", hint="dt.Agent(…, trainable=True)")
        return Learning(self.named_parameters().values(), self.settings["optimizer"])

    def zero_grad(self) -> None:
        self.learning.zero_grad()

    def update(self) -> dict[str, float]:
        """One optimizer step; the generator is told."""
        metrics = self.learning.update()
        self.version += 1
        if "generator" in self.__dict__ and self.generator.has("sync_weights"):
            self.generator.call("sync_weights", {"model": self.model, "version": self.version})
        return metrics

    def frozen(self) -> Agent:
        """A reference: this agent with the weights of now, or the weights it was loaded with if it has not learnt."""
        if self.settings["lora"] is not None and self.trainable:
            return _WithoutAdapters(self)
        settings = {**self.settings, "head": None, "lora": None, "gradient_checkpointing": False}
        copied = Agent(self._path, trainable=False, **settings)
        if self.version:
            copied.__dict__["_loaded"] = (copy.deepcopy(self.model).requires_grad_(False), self.tokenizer)
        return copied

    # ---- files

    def save(self, path: str | Path) -> Path:
        """Write the model (adapters merged in) and the tokenizer in the Hugging Face layout."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(folder / "adapter")
            model = copy.deepcopy(model).merge_and_unload()
        with no_progress_bar():
            model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.settings["head"] == "value":
            from safetensors.torch import save_file

            save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        return folder


class _WithoutAdapters(Agent):
    """A LoRA agent as it was before learning: the same weights, adapters off."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.name = agent.name
        self.settings = {**agent.settings, "lora": None, "head": None, "gradient_checkpointing": False}
        self.trainable = False
        self.version = 0
        self._path = agent._path

    @property
    def _loaded(self) -> tuple[Any, Any]:
        return self._agent._loaded

    @property
    def is_loaded(self) -> bool:
        return self._agent.is_loaded

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        with self._agent.model.disable_adapter():
            return super().hidden(tokens, mask, positions)
