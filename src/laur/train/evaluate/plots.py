"""Plots as inline SVG: a value over the number of steps, with intervals, the noise floor and the yardstick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 30, 40
INK, FAINT, LINE, FLOOR, STICK = "#222", "#ddd", "#2563a8", "#2c8a4b", "#b4552d"
LEVELS = (
    ("teacher", "teacher", FLOOR),
    ("reference", "teacher, other noise", FLOOR),
    ("yardstick", "DDIM, 4 steps", STICK),
)
"""Roles that are drawn as lines across."""
SHOWN = ("kid", "fd", "mmd", "caption", "recall", "coverage", "psnr")


@dataclass(frozen=True, slots=True)
class Level:
    """A line across: what it is called, where it lies, its interval and colour."""

    name: str
    entry: Mapping[str, float]
    colour: str


def over_steps(
    title: str,
    points: Sequence[tuple[int, Mapping[str, float]]],
    levels: Sequence[Level] = (),
    *,
    scale: float = 1.0,
    across: str = "steps",
) -> str:
    """An SVG of points (steps, {value, low, high}) joined by a line."""
    entries = [entry for _, entry in points] + [level.entry for level in levels]
    low = min(entry["low"] for entry in entries) * scale
    high = max(entry["high"] for entry in entries) * scale
    low, high = min(0.0, low), high if high > low else low + 1
    place = _Places([steps for steps, _ in points], low, high, scale)
    parts = [_frame(title, place, [steps for steps, _ in points], across), *(_level(level, place) for level in levels)]
    joined = " ".join(f"{place.x(steps):.1f},{place.y(entry['value']):.1f}" for steps, entry in points)
    parts.append(f'<polyline points="{joined}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for steps, entry in points:
        x = place.x(steps)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{place.y(entry["low"]):.1f}" y2="{place.y(entry["high"]):.1f}" '
            f'stroke="{LINE}" stroke-width="1.5"/><circle cx="{x:.1f}" cy="{place.y(entry["value"]):.1f}" r="3.5" '
            f'fill="{LINE}"/>'
        )
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'


class _Places:
    """From values to pixels; steps lie on a logarithmic axis."""

    def __init__(self, steps: Sequence[int], low: float, high: float, scale: float) -> None:
        self._first, self._last = math.log2(min(steps)), math.log2(max(steps))
        self.low, self.high = low, high + 0.06 * (high - low)
        self._scale = scale

    def x(self, steps: int) -> float:
        width = WIDTH - LEFT - RIGHT - 40
        whole = self._last - self._first
        return LEFT + 20 + (width * (math.log2(steps) - self._first) / whole if whole else width / 2)

    def y(self, value: float) -> float:
        return self.of(value * self._scale)

    def of(self, value: float) -> float:
        height = HEIGHT - TOP - BOTTOM
        return TOP + height * (1 - (value - self.low) / (self.high - self.low))


def _frame(title: str, place: _Places, steps: Sequence[int], across: str) -> str:
    parts = [f'<text x="{LEFT}" y="16" font-weight="600" fill="{INK}">{escape(title)}</text>']
    for tick in _ticks(place.low, place.high):
        y = place.of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">{tick:g}</text>')
    for count in steps:
        where = f'x="{place.x(count):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {where} text-anchor="middle" fill="{INK}">{count}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" fill="{INK}">{escape(across)}</text>')
    return "".join(parts)


def _level(level: Level, place: _Places) -> str:
    top, bottom, y = (place.y(level.entry[key]) for key in ("high", "low", "value"))
    return (
        f'<rect x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" y="{top:.1f}" height="{max(1.0, bottom - top):.1f}" '
        f'fill="{level.colour}" opacity="0.15"/><line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
        f'stroke="{level.colour}" stroke-dasharray="4 3"/><text x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" '
        f'text-anchor="end" fill="{level.colour}">{escape(level.name)}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step) + 1)]


def plots(result: Mapping[str, Any]) -> list[str]:
    """Those that the result has numbers for."""
    from laur.train.evaluate import metrics

    rows: list[dict[str, Any]] = list(result["subjects"])
    students = [row for row in rows if row["role"] == "student"]
    found: list[str] = []
    for key in SHOWN:
        points = [(row["steps"], row["metrics"][key]) for row in students if key in row["metrics"]]
        if not points:
            continue
        by_role = {row["role"]: row["metrics"][key] for row in rows if key in row["metrics"]}
        if "teacher" in by_role:
            by_role.pop("reference", None)  # two lines of the same would only hide each other
        levels = [Level(name, by_role[role], colour) for role, name, colour in LEVELS if role in by_role]
        metric = metrics.ALL[key]
        title = f"{metric.title}{', %' if metric.percent else ''} ({metric.better} is better)"
        found.append(over_steps(title, points, levels, scale=100 if metric.percent else 1))
    for row in students:
        if len(row.get("pass_at_k", {})) > 1:
            points = [(int(k), entry) for k, entry in row["pass_at_k"].items()]
            found.append(over_steps(f"pass@k, %: {row['name']}", points, scale=100, across="k"))
    return found
