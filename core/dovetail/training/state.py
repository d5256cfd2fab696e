"""What of the agents goes into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dovetail.agents.agent import Agent
from dovetail.errors import CheckpointError


def save_agents(agents: Mapping[str, Agent]) -> dict[str, Any]:
    """Weights and optimizer state of those that learn, as checkpoint files."""
    files: dict[str, Any] = {}
    for name, agent in agents.items():
        if agent.trainable:
            files[f"{name}.safetensors"] = agent.named_parameters()
            files[f"{name}.pt"] = {"learning": agent.learning.state_dict(), "version": agent.version}
    return files


def load_agents(agents: Mapping[str, Agent], saved: Mapping[str, Any]) -> None:
    """The other way round.

    Raises:
        CheckpointError: An agent or a tensor is missing, or has another shape.
    """
    for name, agent in agents.items():
        if not agent.trainable:
            continue
        if f"{name}.safetensors" not in saved:
            raise CheckpointError(f"the checkpoint holds no agent {name!r}")
        tensors, parameters = saved[f"{name}.safetensors"], agent.named_parameters()
        if set(tensors) != set(parameters):
            odd = sorted(set(tensors) ^ set(parameters))[0]
            raise CheckpointError(f"the checkpoint does not fit the agent {name!r}: {odd} is on one side only")
        with torch.no_grad():
            for key, parameter in parameters.items():
                if parameter.shape != tensors[key].shape:
                    raise CheckpointError(f"{name}.{key} has another shape in the checkpoint")
                parameter.copy_(tensors[key])
        state = saved[f"{name}.pt"]
        agent.learning.load_state_dict(state["learning"])
        agent.version = state["version"]
