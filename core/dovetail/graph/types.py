"""Port types: a kind and a symbolic shape, and the one broadcast rule."""

from __future__ import annotations

import attrs


@attrs.frozen
class PortType:
    """What flows along an edge, for example ``per_token[B, T]``."""

    kind: str
    shape: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}[{', '.join(self.shape)}]" if self.shape else self.kind


ANY = PortType("any")
AGENT = PortType("agent")
PROMPTS = PortType("prompts", ("P",))
ROLLOUTS = PortType("rollouts", ("B",))
SCALAR = PortType("scalar", ("B",))
PER_TOKEN = PortType("per_token", ("B", "T"))
PARTS = PortType("reward_parts", ("B",))
LOSS = PortType("loss")


def fits(given: PortType, wanted: PortType) -> bool:
    """Whether an output may feed an input: same type, either side ``any``, or the broadcast scalar -> per_token."""
    return ANY in (given, wanted) or given == wanted or (given == SCALAR and wanted == PER_TOKEN)


def joined(left: PortType, right: PortType) -> PortType | None:
    """The type of ``left + right``, or None if the two do not combine."""
    if left == right or right == ANY:
        return left
    if left == ANY:
        return right
    return PER_TOKEN if {left, right} == {SCALAR, PER_TOKEN} else None
