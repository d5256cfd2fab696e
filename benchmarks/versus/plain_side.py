"""The peer where TRL is not installed: transformers' generate and a GRPO step in plain PyTorch, whole batches padded."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from versus.workloads import END, LEARNING_RATE, PAD, Result, Workload, gradients, perturb, prompts, reward

CLIP = 0.2


class Plain:
    """Model, reference and optimizer, with the maths of dovetail's defaults."""

    def __init__(self, workload: Workload, model: Path, device: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.workload, self.device = workload, device
        self.model = AutoModelForCausalLM.from_pretrained(model).to(device)
        self.reference = copy.deepcopy(self.model).requires_grad_(False) if workload.beta else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")

    def encode(self, texts: list[str]) -> Any:
        return self._tokenizer(texts, return_tensors="pt", padding=True).to(self.device)

    def sample(self, texts: list[str]) -> list[list[int]]:
        """``group`` completions of each prompt, side by side, each to its end token."""
        least, most = self.workload.completion_tokens
        read = self.encode(texts)
        drawn = self.model.eval().generate(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"], do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, num_return_sequences=self.workload.group, min_new_tokens=least, max_new_tokens=most,
            eos_token_id=END, pad_token_id=PAD,
        )  # fmt: skip
        rows = drawn[:, read["input_ids"].shape[1] :].tolist()
        return [row[: row.index(END) + 1] if END in row else row for row in rows]

    def loss(self, texts: list[str], completions: list[list[int]]) -> torch.Tensor:
        """Clipped ratio with group z-scores, averaged over tokens, and the k3 penalty if there is a reference."""
        scores = torch.tensor([reward(row) for row in completions]).view(-1, self.workload.group)
        advantages = ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        read = self.encode([text for text in texts for _ in range(self.workload.group)])
        width = max(map(len, completions))
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions], device=self.device)
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in completions], device=self.device)
        whole = torch.cat([read["input_ids"], tokens], 1), torch.cat([read["attention_mask"], mask], 1)
        logprobs = _logprobs(self.model.train(), *whole, width)
        ratio = (logprobs - logprobs.detach()).exp()
        credit = advantages.to(self.device)
        terms = -torch.minimum(ratio * credit, ratio.clamp(1 - CLIP, 1 + CLIP) * credit)
        if self.reference is not None:
            with torch.no_grad():
                gap = _logprobs(self.reference, *whole, width)
            gap = gap - logprobs
            terms = terms + self.workload.beta * (gap.exp() - 1 - gap)
        return (terms * mask).sum() / mask.sum()

    def update(self, texts: list[str], completions: list[list[int]]) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(texts, completions).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def _logprobs(model: Any, tokens: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    """``[B, width]`` log-probs of the last tokens."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=tokens, attention_mask=mask, position_ids=positions, logits_to_keep=width + 1)
    logits = output.logits[:, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, -width:, None]).squeeze(-1)


def steps(workload: Workload, model: Path, device: str) -> Iterator[Any]:
    """As dovetail's ``steps``."""
    side = Plain(workload, model, device)
    texts, at = prompts(workload), 0
    torch.manual_seed(0)
    yield None
    while True:
        chosen = [texts[(at + row) % len(texts)] for row in range(workload.prompts)]
        at += workload.prompts
        started = time.perf_counter()
        completions = side.sample(chosen)
        sampled = time.perf_counter()
        side.update(chosen, completions)
        phases = {"generate": sampled - started, "learn": time.perf_counter() - sampled}
        yield {"tokens": sum(map(len, completions)), "phases": phases}


def loss_and_gradients(workload: Workload, model: Path, device: str, completions: list[list[int]]) -> Result:
    """Of the first batch, with the policy moved away from the reference."""
    side = Plain(workload, model, device)
    perturb(side.model)
    loss = side.loss(prompts(workload)[: workload.prompts], completions)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss), gradients(side.model)
