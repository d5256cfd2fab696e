"""Curves as SVG that stands inside a page: no script, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 110, 52, 18, 6
MOST_POINTS = 200


def curve(name: str, points: Sequence[tuple[int, float]]) -> Markup:
    """One metric by step; longer series are shown as means of neighbours. Values that are not finite are left out."""
    shown = thinned([(step, value) for step, value in points if math.isfinite(value)])
    if not shown:
        return Markup("")
    steps, values = [step for step, _ in shown], [value for _, value in shown]
    low, high = min(values), max(values)
    span, width = (high - low) or 1.0, (steps[-1] - steps[0]) or 1
    inner_width, inner_height = WIDTH - LEFT - 8, HEIGHT - BOTTOM - TOP

    def x(step: float) -> float:
        return LEFT + inner_width * (step - steps[0]) / width

    def y(value: float) -> float:
        return TOP + inner_height * (1 - (value - low) / span)

    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in shown)
    labels = [(LEFT - 4, y(high) + 8, "end", f"{high:.4g}")] + (
        [(LEFT - 4, y(low), "end", f"{low:.4g}")] if high > low else []
    )
    labels += [(LEFT, HEIGHT - 4, "start", f"{round(steps[0])}"), (WIDTH - 8, HEIGHT - 4, "end", f"{round(steps[-1])}")]
    texts = "".join(
        f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}">{text}</text>' for a, b, anchor, text in labels
    )
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"><title>{escape(name)}</title>'
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 8}"/><polyline points="{line}"/>'
        f'<circle cx="{x(steps[-1]):.1f}" cy="{y(values[-1]):.1f}" r="2.5"/>{texts}</svg>'
    )  # fmt: skip


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points; each the mean of a stretch of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return list(points)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(step for step, _ in s) / len(s), sum(value for _, value in s) / len(s)) for s in stretches]
