"""The built-in operations and how a part becomes one: its hook's arguments are the ports."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dovetail.graph.node import Op, Place
from dovetail.graph.types import AGENT, ANY, LOSS, PARTS, PER_TOKEN, PROMPTS, ROLLOUTS, SCALAR, PortType
from dovetail.parts import HOOKS_BY_KIND, Part
from dovetail.sampling import Sampling

_FORWARD = {"agent": AGENT, "prompts": ANY, "completions": ROLLOUTS}
_TOTAL = {"out": SCALAR, "parts": PARTS, "weights": PARTS}

INPUT = Op("input", {}, {"out": ANY})
GENERATE = Op("generate", {"policy": AGENT, "prompts": PROMPTS}, {"out": ROLLOUTS}, place="collect", pure=False)
ROLLOUT = attrs.evolve(GENERATE, name="rollout")  # of episodes of the run's environment, in as many turns as they take
LOGPROBS = Op("logprobs", _FORWARD, {"out": PER_TOKEN})
ENTROPY = Op("entropy", _FORWARD, {"out": PER_TOKEN})
VALUES = Op("values", _FORWARD, {"out": PER_TOKEN, "final": SCALAR})
REWARD_SLOT = Op("run_rewards", {"completions": ROLLOUTS}, _TOTAL, place="collect")
FROZEN = Op("frozen", {"live": PER_TOKEN}, {"out": PER_TOKEN}, place="collect")

SAMPLERS = ("generate", "rollout", "generate_step")
FORWARD_OPS = ("logprobs", "entropy", "values")
# What a sampler may be told: the group's size, batches that a step may draw, what overrides the run's sampling.
GENERATE_COUNTS = ("samples", "draws")
GENERATE_OPTIONS = (*GENERATE_COUNTS, *(field.name for field in attrs.fields(Sampling)))

# What a hook may ask for and a node computes; all else that it asks for is read straight off the rollouts.
_PORTS: Mapping[str, PortType] = {
    **dict.fromkeys(("logprobs", "old_logprobs", "ref_logprobs", "entropy", "values", "old_values"), PER_TOKEN),
    **dict.fromkeys(("rewards", "advantages", "returns"), PER_TOKEN),
    **dict.fromkeys(("final_values", "baselines"), SCALAR),
    "reward_parts": PARTS,
    "reward_weights": PARTS,
}
_PART_OPS: Mapping[str, tuple[str, Mapping[str, PortType], Place]] = {
    "rewards": ("reward", {"out": SCALAR}, "collect"),
    "advantages": ("advantages", {"out": PER_TOKEN, "returns": PER_TOKEN}, "collect"),
    "losses": ("loss", {"out": LOSS}, "learn"),
}


def ports_of(part: Part) -> tuple[str, ...]:
    """The ports of a part in the order in which its author wrote them."""
    return tuple(name for name in part.asks_for(HOOKS_BY_KIND[part.kind][0]) if name in _PORTS)


def part_op(part: Part) -> Op:
    """The operation of a reward, estimator or loss part."""
    name, outputs, place = _PART_OPS[part.kind]
    # An estimator is given a reward for each sequence; a loss, the same spread over the tokens.
    types = {**_PORTS, "rewards": SCALAR} if part.kind == "advantages" else _PORTS
    ports = {port: types[port] for port in ports_of(part)}
    return Op(name, {**ports, "rollouts": ROLLOUTS}, outputs, part, place=place, offload=part.kind == "rewards")


def total_op(count: int) -> Op:
    """The weighted total of ``count`` rewards; the weights are the node's option."""
    return Op("total", {f"reward_{index}": SCALAR for index in range(count)}, _TOTAL, place="collect")
