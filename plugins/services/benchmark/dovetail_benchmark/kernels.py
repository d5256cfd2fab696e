"""Kernels against their pure Python baseline, their torch reference, and the back ends, over sizes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import torch

from dovetail import catalog, load
from dovetail.errors import UserError
from dovetail.parts import Part
from dovetail.registry import registry

SIZES = ((8, 512), (64, 512), (256, 1024), (1024, 4096))
_HOOKS = {"rewards": "score", "advantages": "estimate", "losses": "loss_terms"}
_ENOUGH = 0.5  # seconds after which a measurement has repeats enough
_REPEATS = 20
_VOCABULARY = 32_000


@attrs.frozen
class Timing:
    """One measurement: ``back_end`` is ``python``, ``torch``, ``cpu`` (C++) or ``cuda``."""

    kernel: str
    back_end: str
    batch_size: int
    length: int
    seconds: float


@attrs.frozen
class Comparison:
    """Measurements of one or several kernels."""

    timings: tuple[Timing, ...]
    machine: str  #: what they are of

    def speedup(self, over: str, timing: Timing) -> float:
        """How many times as long ``over`` takes for the same."""
        same = (timing.kernel, timing.batch_size, timing.length)
        others = {(t.kernel, t.batch_size, t.length): t.seconds for t in self.timings if t.back_end == over}
        return others[same] / timing.seconds

    def table(self) -> str:
        """Markdown: a line for each kernel and size, milliseconds by back end, and what the fastest compiled one gains."""
        names = list(dict.fromkeys(timing.back_end for timing in self.timings))
        compiled = [name for name in names if name in ("cpu", "cuda")]
        gains = [(own, over) for own in compiled for over in ("python", "torch") if over in names]
        head = ["kernel", "rows × tokens", *(f"{_LABELS[name]} ms" for name in names)]
        head += [f"{_LABELS[over]} / {_LABELS[own]}" for own, over in gains]
        lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
        for key in dict.fromkeys((t.kernel, t.batch_size, t.length) for t in self.timings):
            found = {t.back_end: t for t in self.timings if (t.kernel, t.batch_size, t.length) == key}
            cells = [f"{found[name].seconds * 1e3:.3g}" if name in found else "" for name in names]
            cells += [
                f"{self.speedup(over, found[own]):.1f}×" if {own, over} <= found.keys() else "" for own, over in gains
            ]
            lines.append([key[0], f"{key[1]} × {key[2]}", *cells])
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", f"Measured on {self.machine}.", ""])

    def json(self) -> str:
        """The measurements, seconds each."""
        return json.dumps(
            {"machine": self.machine, "timings": [attrs.asdict(timing) for timing in self.timings]}, indent=2
        )

    def picture(self, path: Path) -> Path:
        """Milliseconds by tokens, a panel for each kernel, as an image; a UserError if matplotlib is missing."""
        from dovetail_benchmark.report import canvas

        kernels = list(dict.fromkeys(timing.kernel for timing in self.timings))
        figure = canvas((5 * min(len(kernels), 3), 4 * -(-len(kernels) // 3)))
        for place, kernel in enumerate(kernels, start=1):
            panel = figure.add_subplot(-(-len(kernels) // 3), min(len(kernels), 3), place)
            for name in dict.fromkeys(timing.back_end for timing in self.timings):
                own = [t for t in self.timings if (t.kernel, t.back_end) == (kernel, name)]
                points = sorted((t.batch_size * t.length, t.seconds * 1e3) for t in own)
                panel.plot(*zip(*points, strict=True), marker="o", label=_LABELS[name])
            panel.set(title=kernel, xlabel="tokens", ylabel="ms", xscale="log", yscale="log")
            panel.legend(fontsize="small")
        figure.savefig(path, dpi=120)
        return path


_LABELS = {"python": "Python", "torch": "torch", "cpu": "C++", "cuda": "CUDA"}


class KernelBenchmark:
    """Measures kernels on random rows, whose tokens are as unevenly common as words are (Zipf, 32,000 of them).

    A time is the median of up to 20 calls within half a second, after one that is not counted; it holds all that a call
    does, checks and conversions too.
    """

    def compare(
        self,
        name: str,
        *,
        batch_sizes: Sequence[int] = (),
        lengths: Sequence[int] = (),
        sizes: Iterable[tuple[int, int]] = SIZES,
        options: Mapping[str, Any] | None = None,
    ) -> Comparison:
        """Measure a kernel by the name of its part.

        Args:
            name: In the registry of rewards, advantages or losses, or an entry point in ``dovetail.kernels``.
            batch_sizes: Rows; with every one of ``lengths``, instead of ``sizes``.
            lengths: Tokens of each row; 1024 if only ``batch_sizes`` are given.
            sizes: Pairs of both.
            options: Of the part; what it says in its class attribute ``example``, if they are not given.

        Raises:
            UserError: No such part is installed, or it has no kernel.
        """
        subject = _subject(name, options)
        if batch_sizes or lengths:
            sizes = [(rows, length) for rows in batch_sizes or (256,) for length in lengths or (1024,)]
        timings = [timing for rows, length in sizes for timing in self._measure(name, subject, rows, length)]
        return Comparison(tuple(timings), _machine())

    def compare_all(self, names: Sequence[str] = (), sizes: Iterable[tuple[int, int]] = SIZES) -> Comparison:
        """Measure several kernels, all that are installed if none is named."""
        sizes = tuple(sizes)
        compared = [self.compare(name, sizes=sizes) for name in names or installed()]
        return Comparison(tuple(timing for each in compared for timing in each.timings), _machine())

    def _measure(self, name: str, subject: Any, batch_size: int, length: int) -> list[Timing]:
        """Every back end that this machine has, on one size."""
        from dovetail_kernels.backends import problem
        from dovetail_kernels.launch import launch
        from dovetail_kernels.program import Program

        lengths = [length] * batch_size
        call = subject.call(
            lengths, _VOCABULARY, tokens=_zipf(batch_size * length, min(_VOCABULARY, subject.vocabulary))
        )
        ways: dict[str, Callable[[], Any]] = {"torch": call.refer}
        if subject.kernel.baseline is not None:
            ways = {"python": call.plain, **ways}
        for back_end in ("cpu", "cuda"):
            if problem(Program.of((subject.kernel,)), back_end, "cpu") is None:
                ways[back_end] = lambda back_end=back_end: launch([call], back_end=back_end)  # type: ignore[misc]
        return [Timing(name, way, batch_size, length, seconds(work)) for way, work in ways.items()]


def installed() -> list[str]:
    """Names of the parts that have a kernel, and of kernels that are no part: entry points in ``dovetail.kernels``."""
    return [name for kind in _HOOKS for name in registry(kind) if _has_kernel(kind, name)] + sorted(_functions())


def _functions() -> dict[str, catalog.Entry]:
    return {entry.name: entry for entry in catalog.entries() if entry.kind == "kernels"}


def _has_kernel(kind: str, name: str) -> bool:
    target, _ = registry(kind).target(name)
    return load("dovetail_kernels.op").find_kernel(getattr(target, _HOOKS[kind], target))[0] is not None


def _subject(name: str, options: Mapping[str, Any] | None) -> Any:
    given = _functions()[name].load() if name in _functions() else _part(name, options)
    return load("dovetail_kernels.subject").Subject.of(given)


def _part(name: str, options: Mapping[str, Any] | None) -> Part:
    kind = next((kind for kind in _HOOKS if name in registry(kind)), "rewards")
    if not _has_kernel(kind, name):
        hint = f"those with one: {', '.join(installed()) or 'none'}"
        raise UserError(f"the {kind} part {name!r} has no kernel", hint=hint)
    chosen = getattr(registry(kind).target(name)[0], "example", {}) if options is None else options
    part: Part = registry(kind)[name](**chosen)
    return part


def _zipf(count: int, vocabulary: int) -> torch.Tensor:
    """``[count]`` int64 token ids, the k-th most common one drawn as 1/k."""
    edges = (1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)).cumsum(0)
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, drawn).clamp(max=vocabulary - 1)


def seconds(work: Callable[[], Any]) -> float:
    """The median time of a call."""
    times: list[float] = []
    work()
    while len(times) < _REPEATS and sum(times) < _ENOUGH:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def _machine() -> str:
    import platform

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"
