"""The built-in operations and how a part becomes one: its hook's arguments are the ports."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dovetail.graph.node import Op
from dovetail.graph.types import AGENT, ANY, LOSS, PARTS, PER_TOKEN, PROMPTS, ROLLOUTS, SCALAR, PortType
from dovetail.parts import HOOKS_BY_KIND, Part
from dovetail.sampling import Sampling

INPUT = Op("input", {}, {"out": ANY})
GENERATE = Op("generate", {"policy": AGENT, "prompts": PROMPTS}, {"out": ROLLOUTS}, place="collect", pure=False)
_FORWARD = {"agent": AGENT, "prompts": ANY, "completions": ROLLOUTS}
LOGPROBS = Op("logprobs", _FORWARD, {"out": PER_TOKEN})
ENTROPY = Op("entropy", _FORWARD, {"out": PER_TOKEN})
VALUES = Op("values", _FORWARD, {"out": PER_TOKEN, "final": SCALAR})
REWARD_SLOT = Op(
    "run_rewards", {"completions": ROLLOUTS}, {"out": SCALAR, "parts": PARTS, "weights": PARTS}, place="collect"
)
FROZEN = Op("frozen", {"live": PER_TOKEN}, {"out": PER_TOKEN}, place="collect")

FORWARD_OPS = ("logprobs", "entropy", "values")

# What a part may read straight off the rollouts that it looks at; every other argument is a port.
FACTS = [
    "completions",
    "prompts",
    "mask",
    "texts",
    "messages",
    "tasks",
    "groups",
    "steps",
    "finish_reasons",
    "rollouts",
    "sampled",
    "truncated",
    "sampled_logprobs",
]

_OUTPUTS: Mapping[str, Mapping[str, PortType]] = {
    "rewards": {"out": SCALAR},
    "advantages": {"out": PER_TOKEN, "returns": PER_TOKEN},
    "losses": {"out": LOSS},
}
_SINGULAR = {"rewards": "reward", "advantages": "advantages", "losses": "loss"}
_PORT_TYPES = {"reward_parts": PARTS, "reward_weights": PARTS, "final_values": SCALAR}


def generate_options() -> set[str]:
    """What a generate node may be told: the group's size, and every field of the sampling record."""
    return {"samples", *(field.name for field in attrs.fields(Sampling))}


def ports_of(part: Part) -> tuple[str, ...]:
    """The ports of a part in the order in which its author wrote them, facts of the rollouts left out."""
    return tuple(name for name in part.asks_for(HOOKS_BY_KIND[part.kind][0]) if name not in FACTS)


def part_op(part: Part) -> Op:
    """The operation of a reward, estimator or loss part."""
    scalar_rewards = part.kind == "advantages"
    ports = {
        name: SCALAR if name == "rewards" and scalar_rewards else _PORT_TYPES.get(name, PER_TOKEN)
        for name in ports_of(part)
    }
    return Op(
        _SINGULAR[part.kind],
        {**ports, "rollouts": ROLLOUTS},
        _OUTPUTS[part.kind],
        part=part,
        place="learn" if part.kind == "losses" else "collect",
        offload=part.kind == "rewards",
    )


def total_op(count: int) -> Op:
    """The weighted total of ``count`` rewards; the weights are the node's option."""
    ports = {f"reward_{index}": SCALAR for index in range(count)}
    return Op("total", ports, {"out": SCALAR, "parts": PARTS, "weights": PARTS}, place="collect")


def arithmetic_op(symbol: str, ports: Mapping[str, PortType], result: PortType) -> Op:
    return Op(symbol, ports, {"out": result})
