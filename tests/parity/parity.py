"""Do two implementations agree? Cases give value and gradient of ours and of a peer on the same tensors.

A module ``<family>_cases.py`` beside this one adds cases; ``python tests/parity/parity.py`` writes docs/parity.md.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "parity.md"
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}
SEEDS = range(3)

Side = tuple[Tensor, Mapping[str, Tensor]]  # a value of any shape, and gradients by name; none for an estimator
Run = Callable[[int, torch.dtype], tuple[Side, Side]]  # seed, dtype: ours, theirs


@attrs.frozen
class Case:
    """One row of the table.

    Args:
        part: Kind, name and options.
        peer: A distribution, whose own code runs, or the source of a float64 reference, as the page shows it.
        run: Both sides on a random ragged batch.
        dtypes: In which the peer computes.
    """

    part: str
    peer: str
    run: Run
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)

    @property
    def key(self) -> tuple[str, str]:
        try:
            return self.part, f"{self.peer} {importlib.metadata.version(self.peer)}"
        except importlib.metadata.PackageNotFoundError:
            return self.part, self.peer

    def errors(self, dtype: torch.dtype) -> tuple[float, float]:
        """Largest relative error of the value and of the gradient over the seeds; an error that is not finite is inf."""
        pairs = [_errors(*self.run(seed, dtype)) for seed in SEEDS]
        return max(value for value, _ in pairs), max(gradient for _, gradient in pairs)


CASES: list[Case] = []


def case(part: str, peer: str, dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)) -> Callable[[Run], Run]:
    """Add a case: its function takes a seed and a dtype, and gives ``(ours, theirs)``."""

    def add(run: Run) -> Run:
        CASES.append(Case(part, peer, run, dtypes))
        return run

    return add


def _errors(ours: Side, theirs: Side) -> tuple[float, float]:
    assert ours[1].keys() == theirs[1].keys(), "both sides must give the same gradients"
    gradients = [_relative(ours[1][name], gradient) for name, gradient in theirs[1].items()]
    return _relative(ours[0], theirs[0]), max(gradients, default=0.0)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{list(ours.shape)} against {list(theirs.shape)}"
    gap, size = (ours.double() - theirs.double()).norm().item(), theirs.double().norm().item()
    error = gap / size if size else gap
    return error if math.isfinite(error) else math.inf


def all_cases() -> list[Case]:
    """Those of every family."""
    if not CASES:
        for path in sorted(HERE.glob("*_cases.py")):
            importlib.import_module(path.stem)
    return CASES


def rows(page: str) -> list[tuple[str, str]]:
    """Part and peer of each row of the page."""
    cells = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    return [(line[0].removeprefix("| ").strip("`"), line[1]) for line in cells]


def written() -> str:
    """The page, after running every case. Errors are rounded up to powers of ten, which are the same on each machine."""
    lines = [
        "# Parity",
        "",
        "Each loss and estimator beside an implementation that is not ours, on random ragged batches: the largest relative",
        "error of the value and of the gradient, as a bound. A peer with a version runs its own code; a paper is a plain",
        "float64 reference in `tests/parity`, written from it. An estimator has no gradient. A dash: the peer does",
        "not compute in that precision. Written by",
        "`python tests/parity/parity.py`; a test holds every row to 1e-5 in float32 and 1e-9 in float64.",
        "",
        "| part | peer | value, float32 | gradient, float32 | value, float64 | gradient, float64 |",
        "|---|---|---|---|---|---|",
    ]
    for each in all_cases():
        bounds = [
            _bound(error) if dtype in each.dtypes else "–"
            for dtype in TOLERANCES
            for error in (each.errors(dtype) if dtype in each.dtypes else (0.0, 0.0))
        ]
        part, peer = each.key
        lines.append(f"| `{part}` | {peer} | {' | '.join(bounds)} |")
    return "\n".join(lines) + "\n"


def _bound(error: float) -> str:
    return "0" if error == 0 else f"1e{math.ceil(math.log10(error)):+03d}"


if __name__ == "__main__":
    sys.modules["parity"] = sys.modules["__main__"]
    PAGE.write_text(written(), encoding="utf-8")
