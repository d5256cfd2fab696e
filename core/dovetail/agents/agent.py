"""Agent: model, tokenizer, optimizer, value head, adapters and generator in one place."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import attrs
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dovetail import load
from dovetail.agents import models
from dovetail.agents.learning import Learning
from dovetail.errors import DataError, DovetailError, UserError
from dovetail.messages import Message, Task
from dovetail.parts import Part
from dovetail.ragged import Ragged
from dovetail.registry import as_part
from dovetail.rollouts import Generated
from dovetail.runtime.linear_logprob import Head
from dovetail.sampling import Sampling
from dovetail.settings import LoraSettings, OptimizerSettings, TinySettings

DtypeName = Literal["float32", "bfloat16", "float16", "float64"]


@attrs.define(eq=False, slots=False)
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
        autocast: The dtype of matrix products, if it is not that of the weights.
        gradient_checkpointing: Recompute activations in backward: less memory, about a third more time.
        share_prompts: Read the prompt of a group once where that is cheaper and the model allows it; no number changes.
        trust_remote_code: Run code that comes with the model. Off unless asked.
        tiny: Build a small random model instead of loading one.
    """

    # An underscore marks what was asked for where the bare name is what became of it.
    name_or_path: str | Path | None = None
    trainable: bool = attrs.field(default=False, kw_only=True)
    _generator: str | Part = attrs.field(default="native", kw_only=True)
    lora: LoraSettings | None = attrs.field(default=None, kw_only=True)
    _head: Literal["value"] | None = attrs.field(default=None, kw_only=True)
    optimizer: OptimizerSettings = attrs.field(factory=OptimizerSettings, kw_only=True)
    dtype: DtypeName = attrs.field(default="float32", kw_only=True)
    _device: str = attrs.field(default="auto", kw_only=True)
    autocast: Literal["bfloat16", "float16"] | None = attrs.field(default=None, kw_only=True)
    gradient_checkpointing: bool = attrs.field(default=False, kw_only=True)
    share_prompts: bool = attrs.field(default=True, kw_only=True)
    trust_remote_code: bool = attrs.field(default=False, kw_only=True)
    _tiny: TinySettings | None = attrs.field(default=None, kw_only=True)
    name: str = attrs.field(init=False)
    version: int = attrs.field(default=0, init=False)  # optimizer steps done
    _adapted: Agent | None = attrs.field(default=None, init=False)  # whose model it shares, with the adapters off

    def __attrs_post_init__(self) -> None:
        if (self.name_or_path is None) == (self._tiny is None):
            hint = "dt.Agent(<name or path>), or dt.Agent.tiny() for a small one"
            raise UserError("an agent needs a model", hint=hint)
        for label, name in (("dtype", self.dtype), ("autocast", self.autocast or "float32")):
            if name not in get_args(DtypeName):
                raise UserError(f"{label} {name!r} is unknown", hint=f"one of {', '.join(get_args(DtypeName))}")
        self.name = "tiny" if self.name_or_path is None else str(self.name_or_path)

    @classmethod
    def tiny(cls, **options: Any) -> Agent:
        """A small local model with random weights. Takes the options of TinySettings and of Agent."""
        shape = {name: options.pop(name) for name in attrs.fields_dict(TinySettings) if name in options}
        return cls(tiny=TinySettings(**shape), **options)

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, but for the name of the model."""
        fields = [field for field in attrs.fields(Agent) if field.init and field.name != "name_or_path"]
        return {str(field.alias): getattr(self, field.name) for field in fields}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        if self._adapted is not None:
            return self._adapted.model, self._adapted.tokenizer
        dtype = getattr(torch, self.dtype)
        if self._tiny is not None:
            model, tokenizer = load("dovetail_trainer.tiny").build_tiny(self._tiny, dtype)
        else:
            model, tokenizer = models.load_pretrained(self.name, dtype, trust_remote_code=self.trust_remote_code)
        return models.without_dropout(model).to(self.device).requires_grad_(False), tokenizer

    @cached_property
    def _learner(self) -> Any:
        model = self._loaded[0].requires_grad_(True)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        return model if self.lora is None else models.add_lora(model, self.lora)

    @property
    def model(self) -> Any:
        """The transformers model, or the peft model around it."""
        return self._learner if self.trainable else self._loaded[0]

    @property
    def _causal(self) -> Any:
        """The causal model itself, adapters inside."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def tokenizer(self) -> Any:
        return self._loaded[1]

    @cached_property
    def device(self) -> torch.device:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(automatic if self._device == "auto" else self._device)

    @cached_property
    def generator(self) -> Part:
        """The part that samples."""
        return as_part("generators", self._generator)

    @cached_property
    def value_head(self) -> torch.nn.Linear:
        """``[D] -> 1``, float32 or the model's float64, as it was saved or 0. A DovetailError if it was not asked for."""
        if self._head != "value":
            raise DovetailError(f"the agent {self.name!r} has no value head", hint='dt.Agent(…, head="value")')
        dtype = torch.promote_types(getattr(torch, self.dtype), torch.float32)
        width = self._causal.config.get_text_config().hidden_size
        head = torch.nn.Linear(width, 1, device=self.device, dtype=dtype).requires_grad_(self.trainable)
        saved = Path(self.name) / models.VALUE_HEAD
        zeros = {name: torch.zeros_like(parameter) for name, parameter in head.named_parameters()}
        head.load_state_dict(load_file(saved) if saved.exists() else zeros)
        return head

    @cached_property
    def context(self) -> int | None:
        """Longest sequence in tokens, if the model has a limit."""
        return getattr(self._causal.config.get_text_config(), "max_position_embeddings", None)

    def encode(self, tasks: Sequence[Task]) -> Ragged:
        """Prompts as token ids, through the chat template if there is one. One that cannot be answered is a DataError."""
        rows = self.encode_texts([self.render(task) for task in tasks])
        for task, row in zip(tasks, rows, strict=True):
            self._check_prompt(f"the prompt of task {task.id!r}", len(row))
        return Ragged.from_rows(rows, dtype=torch.int64)

    def _check_prompt(self, label: str, length: int) -> None:
        if length == 0:
            raise DataError(f"{label} has no tokens", hint="give every prompt at least one token")
        if self.context is not None and length >= self.context:
            problem = f"{label} has {length} tokens, and {self.name!r} has a context of {self.context}"
            raise DataError(problem, hint="shorten or filter the prompts")

    def render(self, task: Task) -> str:
        """The text that the policy is given."""
        if self.tokenizer.chat_template:
            return self.render_chat(task.messages, answer=True)
        return "".join(message.content for message in task.messages)

    def render_chat(self, messages: Sequence[Message], *, answer: bool) -> str:
        """Messages through the chat template; ``answer`` opens the assistant's next turn."""
        chat = [message.to_chat() for message in messages]
        return str(self.tokenizer.apply_chat_template(chat, add_generation_prompt=answer, tokenize=False))

    def encode_text(self, text: str) -> list[int]:
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: list[str], *, opening: bool = True) -> list[list[int]]:
        """Token ids of each; a tokenizer's own first token only where one opens a sequence and no template gives it."""
        special = opening and not self.tokenizer.chat_template
        return list(self.tokenizer(texts, add_special_tokens=special)["input_ids"]) if texts else []

    def decode(self, tokens: list[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def generate(self, prompts: Ragged, samples: int, sampling: Sampling, seeds: Tensor) -> Generated:
        """Sample through the generator part. The end tokens of tokenizer and model join those of ``sampling``."""
        for row, length in enumerate(prompts.lengths.tolist()):
            self._check_prompt(f"prompt {row}", length)
        sampling = attrs.evolve(sampling, stop_tokens=self.stop_tokens(sampling))
        wanted = {"prompts": prompts, "samples": samples, "sampling": sampling, "seeds": seeds}
        with torch.no_grad(), self._passing():
            given = {"model": self.model.eval(), "tokenizer": self.tokenizer, **wanted}
            result = self.generator.call("generate", given)
        count = len(prompts) * samples
        if not isinstance(result, Generated) or len(result.completions) != count:
            raise self.generator.error(f"generate must return Generated with {count} completions")
        return result

    def stop_tokens(self, sampling: Sampling) -> tuple[int, ...]:
        """Ids that end a completion."""
        configured = getattr(getattr(self._causal, "generation_config", None), "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        ids = {self.tokenizer.eos_token_id, *listed, *sampling.stop_tokens}
        return tuple(sorted(token for token in ids if token is not None))

    @contextlib.contextmanager
    def _passing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self._adapted is not None:
                stack.enter_context(self.model.disable_adapter())
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype=getattr(torch, self.autocast)))
            yield

    def hidden(self, tokens: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Last hidden states ``[B, T, D]`` of ``tokens`` ``[B, T]``, padded on the right.

        A mask ``[B, 1, T, T]`` says which token attends to which; without it, to all before. Positions ``[B, T]`` are
        the columns if they are not given.
        """
        # transformers recomputes activations only in training mode; dropout is off in either.
        self.model.train(self.gradient_checkpointing and torch.is_grad_enabled())
        placed = {} if positions is None else {"position_ids": positions}
        with self._passing():
            output = self._causal.base_model(input_ids=tokens, attention_mask=mask, use_cache=False, **placed)
        return cast(Tensor, output.last_hidden_state)

    @cached_property
    def packing_width(self) -> int | None:
        """Width of the hidden states if rows that share a prompt can be read as one sequence, else None."""
        if not self.share_prompts or not models.takes_attention_mask(self._causal, self.hidden):
            return None
        return int(self._causal.config.get_text_config().hidden_size)

    def head(self) -> Head:
        """The output layer; checked once against the model's own logits."""
        return self._checked_head

    @cached_property
    def _checked_head(self) -> Head:
        tokens = torch.arange(min(8, self._causal.config.get_text_config().vocab_size), device=self.device)[None]
        with torch.no_grad(), self._passing():
            hidden = self.hidden(tokens)
            return models.checked_head(self._causal, self.name, tokens, hidden)

    def value(self, hidden: Tensor) -> Tensor:
        """``[N, D]`` hidden states to ``[N]`` values in the dtype of the value head."""
        return cast(Tensor, self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1))

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What learns, by name."""
        found = {f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        head = self.value_head.named_parameters() if self._head == "value" else ()
        return {**found, **{f"value_head.{name}": p for name, p in head}}

    @cached_property
    def learning(self) -> Learning:
        """Its optimizer; a DovetailError if it is not trainable."""
        if not self.trainable:
            raise DovetailError(f"the agent {self.name!r} is not trainable", hint="dt.Agent(…, trainable=True)")
        return Learning(self.named_parameters().values(), self.optimizer)

    def zero_grad(self) -> None:
        self.learning.optimizer.zero_grad(set_to_none=True)

    def update(self) -> dict[str, float]:
        """One optimizer step; the generator is told."""
        metrics = self.learning.update()
        self.version += bool(metrics)
        if metrics and "generator" in vars(self) and self.generator.has("sync_weights"):
            self.generator.call("sync_weights", {"model": self.model, "version": self.version})
        return metrics

    def frozen(self) -> Agent:
        """A reference: this agent with the weights of now, or the weights it was loaded with if it has not learnt."""
        reference = attrs.evolve(self, trainable=False, lora=None, head=None, gradient_checkpointing=False)
        if self.lora is not None and self.trainable:
            reference._adapted = self
        elif self.version:
            vars(reference)["_loaded"] = (copy.deepcopy(self.model).requires_grad_(False), self.tokenizer)
        return reference

    def save(self, path: str | Path) -> Path:
        """Write the model (adapters merged in) and the tokenizer in the Hugging Face layout."""
        folder, model = Path(path), self.model
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(folder / "adapter")
            model = copy.deepcopy(model).merge_and_unload()
        with models.no_progress_bar():
            model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self._head == "value":
            save_file(self.value_head.state_dict(), folder / models.VALUE_HEAD)
        return folder
