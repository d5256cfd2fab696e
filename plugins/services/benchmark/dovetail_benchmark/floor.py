"""What a step must compute and read at least: arithmetic on the shape of a model and the tokens of a step.

Counted are matrix products alone: one forward and two backward products of every token, each prompt once for its group,
and the output layer on sampled tokens alone. Recomputation, optimizer, sampling and rewards are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from dovetail import Rollouts

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@attrs.frozen
class Shape:
    """A decoder of equal layers with full attention.

    Args:
        hidden: Width.
        layers: Number of layers.
        intermediate: Width of the MLP.
        vocabulary: Number of tokens.
        queries: Width of all queries together; 0 is ``hidden``.
        keys: Width of all keys together, and of all values; 0 is ``queries``.
        gated: Whether the MLP has three matrices, not two.
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    queries: int = attrs.field(default=0, converter=int)
    keys: int = attrs.field(default=0, converter=int)
    gated: bool = True

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "queries", self.queries or self.hidden)
        object.__setattr__(self, "keys", self.keys or self.queries)

    @classmethod
    def of(cls, model: Any) -> Shape | None:
        """Of a transformers model; None if its config does not tell, or if not every token goes through all of it."""
        config = model.config.get_text_config()
        names = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")
        hidden, layers, intermediate, vocabulary, heads = (getattr(config, name, None) for name in names)
        partial = any("full" not in kind for kind in getattr(config, "layer_types", None) or ())
        sparse = any(getattr(config, name, None) for name in _EXPERTS)
        if not (hidden and layers and intermediate and vocabulary and heads) or partial or sparse:
            return None
        width = getattr(config, "head_dim", None) or hidden // heads
        modules = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        return cls(
            hidden, layers, intermediate, vocabulary, queries=heads * width,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
            gated=bool(modules & {"gate_proj", "gate_up_proj"}),
        )  # fmt: skip

    @property
    def body(self) -> int:
        """Numbers in the matrices of all layers."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return self.layers * (attention + (3 if self.gated else 2) * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Numbers in the output layer."""
        return self.vocabulary * self.hidden


@attrs.frozen
class Work:
    """The tokens of a step.

    Args:
        tokens: That the layers read, each prompt once for its group.
        sampled: That the output layer reads.
        pairs: Of a token and one before it, to which it attends.
    """

    tokens: float
    sampled: float
    pairs: float

    @classmethod
    def even(cls, prompts: int, group: int, prompt: float, completion: float) -> Work:
        """``prompts`` times ``group`` rows, all of ``prompt`` and ``completion`` tokens."""
        rows = prompts * group
        pairs = rows * completion * (prompt + completion / 2) + prompts * prompt**2 / 2
        return cls(prompts * prompt + rows * completion, rows * completion, pairs)

    @classmethod
    def of(cls, rollouts: Rollouts) -> Work:
        """Of rollouts, row by row."""
        prompts = rollouts.prompts.lengths.tolist()
        lengths = rollouts.tokens.lengths.tolist()
        once = dict(zip(rollouts.groups.tolist(), prompts, strict=True)).values()
        further = [(prompt, length - prompt) for prompt, length in zip(prompts, lengths, strict=True)]
        return cls(
            tokens=sum(once) + sum(rest for _, rest in further),
            sampled=len(rollouts.sampled.values),
            pairs=sum(rest * (prompt + rest / 2) for prompt, rest in further) + sum(prompt**2 / 2 for prompt in once),
        )


def forward_flops(shape: Shape, work: Work, *, head: bool = True) -> float:
    """Floating-point operations of one pass, and of sampling these tokens; ``head`` counts the output layer."""
    output = 2 * shape.head * work.sampled if head else 0.0
    return 2 * shape.body * work.tokens + output + 4 * shape.queries * shape.layers * work.pairs


def decode_bytes(shape: Shape, prompts: int, group: int, prompt: int, completion: int, width: int) -> float:
    """Bytes that decoding must read: all weights at each step, all keys and values, a prompt's once for its group.

    Args:
        shape: Of the model.
        prompts: Distinct prompts.
        group: Completions of each.
        prompt: Tokens of each prompt.
        completion: Tokens of each completion.
        width: Bytes of a number.
    """
    cached = prompts * group * completion**2 / 2 + prompts * prompt * completion
    return width * ((shape.body + shape.head) * completion + 2 * shape.keys * shape.layers * cached)
