"""What could be a kernel and is not: row functions against the torch operations that do the work, on this CPU.

python benchmarks/kernel_candidates.py            # a table in Markdown, a few minutes

Both ways are called in turn; a figure is the median over rounds, a ratio the median of the rounds' own ratios. Each
pair is checked to give the same numbers before it is timed. What was decided by them: docs/decisions/009.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

import dovetail as dt
from dovetail_kernels.kernel import Call
from dovetail_kernels.launch import launch

HERE = Path(__file__).parent / "candidates"
ROUNDS = 15
SIZES = ((8, 512), (256, 1024), (1024, 4096))
CLIP = (0.8, 1.2)

Pair = tuple[str, str, Callable[[], Any], Callable[[], Any]]  # what, how large, in torch, as a row function


def kernel(name: str) -> Callable[[Callable[..., Any]], Any]:
    return dt.kernel_op(path=str(HERE / f"{name}.cu"))


@kernel("clipped")
def clipped(logprobs, old_logprobs, advantages, *, low, high):
    """Terms, and their derivatives by the log-probs."""
    ratio = (logprobs - old_logprobs).exp()
    gain, kept = ratio * advantages, ratio.clamp(low, high) * advantages
    slopes = torch.where(gain.values <= kept.values, -gain.values, 0)
    return gain.with_values(-torch.minimum(gain.values, kept.values)), gain.with_values(slopes)


@kernel("squares")
def squares(gradients):
    return (gradients * gradients).sum()


@kernel("standard")
def standard(rewards, *, eps):
    centred = rewards - rewards.mean()
    spread = ((centred * centred).sum() / (rewards.lengths - 1).clamp(min=1)).sqrt()
    return centred / (spread + eps)


@kernel("near")
def near(completions, *, target):
    return -((completions.lengths - target).abs() / target).clamp(max=1.0)


class Fused(torch.autograd.Function):
    """The clipped loss by the row function."""

    @staticmethod
    def forward(ctx, live, rows, old, advantages):
        terms, slopes = clipped(rows.with_values(live), old, advantages, low=CLIP[0], high=CLIP[1])
        ctx.save_for_backward(slopes.values)
        return terms.values

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0], None, None, None


def rows(batch: int, length: int) -> dt.Ragged:
    return dt.Ragged.from_lengths(torch.randn(batch * length), torch.full((batch,), length))


def losses() -> Iterator[Pair]:
    for batch, length in SIZES:
        live, old, advantages = rows(batch, length).map(lambda v: v * 0.1), rows(batch, length), rows(batch, length)
        old = old.map(lambda v: v * 0.1)
        leaf = live.values.requires_grad_()

        def by_torch(leaf=leaf, old=old, advantages=advantages):
            ratio = (leaf - old.values).exp()
            terms = -torch.minimum(ratio * advantages.values, ratio.clamp(*CLIP) * advantages.values)
            return torch.autograd.grad(terms.sum(), leaf)[0]

        def by_rows(leaf=leaf, old=old, advantages=advantages):
            return torch.autograd.grad(Fused.apply(leaf, old, old, advantages).sum(), leaf)[0]

        yield "clipped loss, forward and backward", f"{batch} × {length}", by_torch, by_rows


def norms() -> Iterator[Pair]:
    for width, layers in ((128, 4), (512, 8), (896, 8)):
        shapes = [(width, width)] * 4 * layers + [(width, 3 * width)] * 3 * layers + [(width,)] * 2 * layers
        sizes = torch.tensor([torch.Size(shape).numel() for shape in shapes])
        flat = dt.Ragged.from_lengths(torch.randn(int(sizes.sum())), sizes)
        parameters = [torch.nn.Parameter(torch.empty(shape)) for shape in shapes]
        for parameter, gradient in zip(parameters, flat, strict=True):
            parameter.grad = gradient.view_as(parameter)

        def by_torch(parameters=parameters):
            return torch.nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)

        def by_rows(flat=flat):  # at its best: gradients that lie in a line already
            return squares(flat).sum().sqrt()

        yield "norm of all gradients", f"{int(sizes.sum()) / 1e6:.1f} million", by_torch, by_rows


def groups() -> Iterator[Pair]:
    estimator = dt.advantage_estimators.group().instance
    for batch, size in ((64, 8), (1024, 8), (4096, 16)):
        rewards, numbers = torch.randn(batch), torch.arange(batch // size).repeat_interleave(size)

        def by_torch(rewards=rewards, numbers=numbers):
            return estimator.estimate(rewards, numbers, None, None)

        def by_rows(rewards=rewards, batch=batch, size=size):  # at its best: groups that lie side by side
            lengths = torch.full((batch // size,), size)
            return standard(dt.Ragged.from_lengths(rewards, lengths), eps=1e-4).values

        yield "advantages within groups", f"{batch} in groups of {size}", by_torch, by_rows


def lengths() -> Iterator[Pair]:
    part, other = dt.rewards.length(target=64).instance, dt.rewards.repetition()
    for batch, length in SIZES:
        tokens = rows(batch, length).map(lambda v: (v.abs() * 1000).long())

        def alone(tokens=tokens):
            return near(tokens, target=64)

        yield "length", f"{batch} × {length}", lambda tokens=tokens: part.score(tokens), alone
        repetition = other.instance.score.kernel

        def apart(tokens=tokens, repetition=repetition):
            launch([Call.bind(repetition, other.instance, tokens)])
            return part.score(tokens)

        def together(tokens=tokens, repetition=repetition):
            calls = [Call.bind(repetition, other.instance, tokens), Call.bind(near.kernel, tokens, target=64)]
            return launch(calls).results[1]

        yield "length beside repetition", f"{batch} × {length}", apart, together


def masks() -> Iterator[tuple[str, float, float]]:
    """Milliseconds to build the mask of bundled rows, and of one attention that reads it."""
    from dovetail.runtime.packing import _attention

    for lines, width, heads, size in ((4, 640, 4, 64), (8, 1024, 8, 64)):
        branch = torch.randint(0, 4, (lines, width))
        query = torch.randn(lines, heads, width, size)
        mask = _attention(branch)
        building = timed(lambda branch=branch: _attention(branch))
        reading = timed(lambda q=query, m=mask: torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=m))
        yield f"{lines} lines of {width}, {heads} heads of {size}", building * 1e3, reading * 1e3


def timed(work: Callable[[], Any]) -> float:
    work()
    return median(_once(work) for _ in range(ROUNDS))


def _once(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float, float]:
    """Median seconds of both, and the median of first / second."""
    times = [(_once(first), _once(second)) for _ in range(ROUNDS)]
    return median(a for a, _ in times), median(b for _, b in times), median(a / b for a, b in times)


def main() -> None:
    torch.manual_seed(0)
    print("| what | size | torch ms | row function ms | torch / row function |\n|---|---|---:|---:|---:|")
    for pairs in (losses, norms, groups, lengths):
        for what, size, by_torch, by_rows in pairs():
            torch.testing.assert_close(by_rows(), by_torch(), rtol=1e-3, atol=1e-4)
            mine, theirs, ratio = in_turn(by_torch, by_rows)
            print(f"| {what} | {size} | {mine * 1e3:.3g} | {theirs * 1e3:.3g} | {ratio:.2f}× |")
    print("\n| mask of shared prompts | to build ms | one attention that reads it ms |\n|---|---:|---:|")
    for what, building, reading in masks():
        print(f"| {what} | {building:.3g} | {reading:.3g} |")
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
