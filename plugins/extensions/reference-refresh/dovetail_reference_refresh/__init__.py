"""Move the reference model towards the policy while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le

from dovetail import UserError, hookimpl


@attrs.define(eq=False)
class ReferenceRefresh:
    """``ref ← (1 - mix) ref + mix policy`` every ``every`` steps.

    With ``mix`` 1 the reference is replaced, with a small ``mix`` and ``every`` 1 it is an exponential moving average of
    the policy: the hard and the soft update of Gorbatovski et al. 2024 (arXiv 2404.09656), section 3.

    Args:
        every: Steps between refreshes. Usual: 1 for an average, 50 to 500 for a replacement.
        mix: The policy's share in the new reference. Usual: 0.001 to 0.05 for an average, 0.5 to 1 else.
        agent: The reference's name in the recipe.
    """

    every: int = attrs.field(default=100, validator=ge(1))
    mix: float = attrs.field(default=1.0, validator=and_(gt(0), le(1)))
    agent: str = "ref_policy"
    _weights: Any = attrs.field(default=None, init=False)

    @hookimpl
    def on_run_start(self, run: Any) -> None:
        """Look whether there is a reference of its own; after a resume give it the weights that it had.

        Raises:
            UserError: The run reads no such agent, or it is the policy with its adapters off, or another model.
        """
        import torch

        if self.agent not in run.agents or not run.compiled.graph.readers(self.agent):
            hint = "give the recipe a penalty (beta, kl_coef), or leave this extension out"
            raise UserError(f"this run reads no reference {self.agent!r} that could be refreshed", hint=hint)
        ours, theirs = _parameters(run.agents["policy"]), _parameters(run.agents[self.agent])
        if run.agents[self.agent].model is run.agents["policy"].model:
            problem = f"{self.agent!r} is the policy itself with its adapters off, and has no weights to refresh"
            raise UserError(problem, hint=f"give it a model of its own: agents: {{{self.agent}: {{model: …}}}}")
        if {name: p.shape for name, p in ours.items()} != {name: p.shape for name, p in theirs.items()}:
            problem = f"{self.agent!r} and the policy are different models, so one cannot be mixed into the other"
            raise UserError(problem, hint="take the policy's own model as the reference, without adapters on either")
        if self._weights is not None:
            with torch.no_grad():
                for name, parameter in theirs.items():
                    parameter.copy_(self._weights[name])

    @hookimpl
    def on_step_end(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Refresh, if it is time; the evaluation before the first step is none."""
        import torch

        if step == 0 or step % self.every:
            return
        ours, theirs = _parameters(run.agents["policy"]), _parameters(run.agents[self.agent])
        with torch.no_grad():
            for name, parameter in theirs.items():
                parameter.lerp_(ours[name].to(parameter), self.mix)
        self._weights = theirs

    def state_dict(self) -> dict[str, Any]:
        """The reference's weights, if they are no longer those that it was loaded with."""
        return {"weights": self._weights and {name: weight.detach().cpu() for name, weight in self._weights.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = state["weights"]


def _parameters(agent: Any) -> dict[str, Any]:
    return dict(agent.model.named_parameters())
