"""A load test as a plot: curves over the number of clients, as one SVG file."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#1b6ca8", "#c8553d", "#2a9d5c")
WIDE, HIGH, EDGE = 300, 200, 50
"""Size of the area of a panel, and its margin, in pixels."""
PANELS: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...] = (
    ("latency, s", (("p50", ("latency_s", "p50")), ("p90", ("latency_s", "p90")), ("p99", ("latency_s", "p99")))),
    ("answers a second", (("answers", ("requests_per_s",)),)),
    ("time to first audio, s", (("p50", ("first_audio_s", "p50")), ("p90", ("first_audio_s", "p90")), ("p99", ("first_audio_s", "p99")))),
    ("real-time factor", (("p50", ("real_time_factor", "p50")), ("p90", ("real_time_factor", "p90")))),
)
"""Title of each panel, and its curves: name and place in the data of a level."""
Point = tuple[float, float]


def load_plot(levels: Sequence[Mapping[str, Any]], title: str) -> str:
    """The plot; panels without data are left out.

    Args:
        levels: Of `run_load`, by rising concurrency.
        title: Above the panels.
    """
    panels = [(name, [(label, _points(levels, place)) for label, place in curves]) for name, curves in PANELS]
    shown = [(name, curves) for name, curves in panels if any(points for _, points in curves)]
    width, height = len(shown) * (WIDE + 2 * EDGE), HIGH + 2 * EDGE + 20
    body = "".join(_panel(name, curves, EDGE + place * (WIDE + 2 * EDGE)) for place, (name, curves) in enumerate(shown))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    white = f'<rect width="{width}" height="{height}" fill="white"/><text x="{EDGE}" y="18" font-size="14">{html.escape(title)}</text>'
    return f"{head}{white}{body}</svg>\n"


def _points(levels: Sequence[Mapping[str, Any]], place: Sequence[str]) -> list[Point]:
    """Concurrency and value of each level that has the value."""
    found = []
    for level in levels:
        value: Any = level
        for part in place:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.append((float(level["concurrency"]), float(value)))
    return found


def _panel(name: str, curves: Sequence[tuple[str, list[Point]]], left: int) -> str:
    """One panel: axes from 0, and a line with dots for each curve."""
    top = EDGE + 20
    every = [point for _, points in curves for point in points]
    most_x, most_y = max(x for x, _ in every), max(max(y for _, y in every), 1e-9)

    def place(point: Point) -> tuple[float, float]:
        return left + WIDE * point[0] / most_x, top + HIGH * (1 - point[1] / most_y)

    axes = f'<path d="M{left},{top}V{top + HIGH}H{left + WIDE}" fill="none" stroke="#444"/>'
    parts = [axes, f'<text x="{left}" y="{top - 10}">{html.escape(name)}</text>']
    parts += [f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{most_y:.3g}</text>']
    for x in sorted({x for x, _ in every}):
        parts.append(f'<text x="{place((x, 0.0))[0]:.1f}" y="{top + HIGH + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{left + WIDE / 2}" y="{top + HIGH + 32}" text-anchor="middle">clients</text>')
    for number, (label, points) in enumerate(curves):
        if points:
            colour = COLOURS[number % len(COLOURS)]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in map(place, points)]
            parts.append(f'<text x="{left + WIDE - 24 - 34 * number}" y="{top - 10}" fill="{colour}">{html.escape(label)}</text>')
    return "".join(parts)
