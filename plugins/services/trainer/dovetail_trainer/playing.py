"""Episodes without learning: for evaluations and collections."""

from __future__ import annotations

import attrs
import torch

from dovetail.agents.agent import Agent
from dovetail.messages import Tasks
from dovetail.parts import Part
from dovetail.rollouts import Rollouts
from dovetail.runtime.scoring import Offloader, driver_of
from dovetail.sampling import Sampling
from dovetail.settings import TrainSettings
from dovetail_trainer.ranks import Ranks
from dovetail_trainer.sharing import SharedDriver


def play(
    policy: Agent,
    environment: Part,
    tasks: Tasks,
    samples: int,
    sampling: Sampling,
    settings: TrainSettings,
    offloader: Offloader,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> Rollouts:
    """Samples of each task, side by side; their total is the reward ``reward``, beside what it is made of."""
    ranks = ranks or Ranks()
    driver = driver_of(environment, settings)
    if ranks.count > 1:
        driver = SharedDriver(driver, ranks)
    if driver.many_turns:
        rollouts: Rollouts = driver.play(policy, tasks, samples, sampling, seed, offloader)["out"]
    else:
        prompts = policy.encode(tasks)
        seeds = torch.randint(0, 2**62, (len(tasks) * samples,), generator=torch.Generator().manual_seed(seed))
        generated = policy.generate(prompts, samples, sampling, seeds)
        facts = {"sampling": sampling, "policy_version": policy.version, "decode": policy.decode}
        rollouts = Rollouts.single_turn(prompts, generated, tasks, samples=samples, **facts)
    total = ranks.score(driver.reward(), rollouts, offloader, settings.reward_timeout).result()
    parts = {name: scores for name, scores in rollouts.rewards.items() if name != environment.label}
    return attrs.evolve(rollouts, rewards={"reward": total, **parts})
