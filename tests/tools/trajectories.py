"""Fifty steps of a recipe on a tiny model, for tests that compute them in several ways."""

from __future__ import annotations

from typing import Any

import torch
from parts_of_tests import lowercase, tiny_policy
from ranked import in_processes

import dovetail as dt
from dovetail_trainer.data import encode_rows
from dovetail_trainer.layouts import layout_of
from dovetail_trainer.ranks import Ranks
from dovetail_trainer.sharing import share_work

STEPS = 50
PROMPTS = ["1+1=", "a longer prompt", "zz"]
ROWS = [{"prompt": f"{i}+{i}=", "completion": str(2 * i) * (i + 1)} for i in range(6)]
PAIRS = [{"prompt": f"{i}+{i}=", "chosen": "a" * (i + 1), "rejected": str(2 * i)} for i in range(6)]
DATA = {"sft": ("demonstrations", ROWS), "dpo": ("pairs", PAIRS)}
OPTIONS = {"sft": {}, "dpo": {"beta": 0.5}, "grpo": {"group_size": 4, "beta": 0.05}, "ppo": {"samples": 4, "epochs": 2}}
WHOLE, EIGHTH = 1 << 20, 24


def trajectory(
    name: str,
    *,
    budget: int = WHOLE,
    share: bool = True,
    mode: Any = "auto",
    ranks: Ranks | None = None,
    steps: int = STEPS,
    **shape: Any,
) -> dict[str, list[float]]:
    """Loss and gradient norms of every step; sampled with seeds of their own, so that equal weights draw equal tokens."""
    learning = dt.OptimizerSettings(use="torch.optim.SGD", lr=0.012, options={"momentum": 0.9})
    shape |= {"dtype": "float64", "optimizer": learning, "share_prompts": share}
    policy = tiny_policy(**shape)
    agents = {} if name == "sft" else {"ref_policy": tiny_policy(**shape).frozen()}
    if name == "ppo":
        agents["value_model"] = tiny_policy(**shape, head="value", seed=4)
    rewards = [] if name in DATA else [lowercase]
    settings = dt.TrainSettings(micro_batch_tokens=budget, sampling=dt.Sampling(max_tokens=8))
    compiled = dt.compile(
        dt.recipes[name](**OPTIONS[name]), policy=policy, settings=settings, mode=mode, rewards=rewards, **agents
    )  # fmt: skip
    share_work(compiled, ranks or Ranks())
    reads, rows = DATA.get(name, ("prompts", PROMPTS))
    given = {reads: encode_rows(rows, policy, layout_of(reads)) if name in DATA else rows}
    told = [compiled.run(**given) for _ in range(steps // (2 if name == "ppo" else 1))]
    assert policy.version == steps
    watched = [key for key in told[0] if key == "loss" or key.endswith("grad_norm")]
    return {key: [metrics[key] for metrics in told] for key in watched}


def shared_trajectory(name: str, processes: int = 2, **options: Any) -> dict[str, list[float]]:
    """The same by several processes, which have all seen the same."""
    first, *others = in_processes(processes, _joined_trajectory, name, options)
    if isinstance(first, Exception):
        raise first
    assert others == [first] * (processes - 1)
    return first


def _joined_trajectory(name: str, options: dict[str, Any]) -> dict[str, list[float]]:
    return trajectory(name, ranks=Ranks.join(torch.device("cpu")), **options)
