"""One step of TRL's GRPOTrainer, set up for speed: no reference model at beta 0, no logging, no checkpoints."""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from pathlib import Path
from queue import Queue
from typing import Any

from versus.workloads import LEARNING_RATE, Result, Workload, gradients, perturb, prompts, reward


def make_trainer(workload: Workload, model: Path, device: str, callbacks: tuple[Any, ...] = ()) -> Any:
    """A GRPOTrainer with the maths of dovetail's defaults: token mean, group z-score, clip 0.2, one update a batch."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    least, most = workload.completion_tokens
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="versus-"),
        use_cpu=device == "cpu", bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        per_device_train_batch_size=workload.prompts * workload.group, gradient_accumulation_steps=1,
        num_generations=workload.group, max_completion_length=most,
        generation_kwargs={"min_new_tokens": least} if least > 1 else None,
        temperature=1.0, top_k=0, top_p=1.0,
        beta=workload.beta, epsilon=0.2, num_iterations=1, loss_type="dapo", scale_rewards="group",
        importance_sampling_level="token", use_bias_correction_kl=False, mask_truncated_completions=False,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch", max_steps=100_000, logging_strategy="no", save_strategy="no", report_to="none",
        dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        reward_funcs=lambda completion_ids, **columns: [reward(ids) for ids in completion_ids],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts(workload)}),
        callbacks=list(callbacks),
    )


def steps(workload: Workload, model: Path, device: str) -> Any:
    """As dovetail's ``steps``. The trainer runs in a thread that waits between its steps."""
    from transformers import TrainerCallback

    go: Queue[None] = Queue()
    done: Queue[Any] = Queue()

    class Turnstile(TrainerCallback):  # type: ignore[misc]
        """Lets one step through at a time."""

        def on_step_begin(self, *arguments: Any, **state: Any) -> None:
            go.get()

        def on_step_end(self, *arguments: Any, **state: Any) -> None:
            done.put({"tokens": counted.pop(), "phases": {}})

    trainer = make_trainer(workload, model, device, (Turnstile(),))
    counted: list[int] = []
    score = trainer.reward_funcs[0]

    def count_and_score(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        counted.append(sum(map(len, completion_ids)))
        return score(completion_ids=completion_ids, **columns)

    trainer.reward_funcs[0] = count_and_score
    failed: list[BaseException] = []

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:
            failed.append(error)
            done.put(None)

    threading.Thread(target=train, daemon=True).start()
    yield None
    while True:
        go.put(None)
        result = done.get()
        if failed:
            raise failed[0]
        yield result


def loss_and_gradients(workload: Workload, model: Path, device: str, completions: list[list[int]]) -> Result:
    """Of the first batch, with the policy moved away from the reference."""
    trainer = make_trainer(workload, model, device)
    perturb(trainer.model)
    trainer._generate_single_turn = lambda *arguments, **options: (completions, None)
    trainer.current_gradient_accumulation_steps = 1
    chosen = prompts(workload)[: workload.prompts]
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in chosen for _ in range(workload.group)])
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss), gradients(trainer.model)
