"""What a model says of each row while it learns: one score, or one for each objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dovetail as dt
from dovetail_reward_model.dropout import Dropped

if TYPE_CHECKING:
    from torch import Tensor

    from dovetail import Agent, Rollouts


@dt.op
def final_scores(agent: Agent, rows: Rollouts, dropout: float = 0.0, objectives: tuple[str, ...] = ()) -> Tensor:
    """``[B]``, the value after each row's last token, its head's inputs through dropout.

    With objectives ``[B, K]`` in their order; a UserError if the agent has other ones.
    """
    from dovetail.runtime.forward import forward

    if {*agent.objectives} != {*objectives}:
        problem = f"the algorithm has the objectives {list(objectives)}, and the policy's head {list(agent.objectives)}"
        raise dt.UserError(problem, hint=f"policy: {{head: value, objectives: [{', '.join(objectives)}]}}")
    actor: Any = Dropped(agent, dropout) if dropout else agent
    final: Tensor = forward(actor, rows, ("values",))["final"]
    return final[:, [agent.objectives.index(name) for name in objectives]] if objectives else final
