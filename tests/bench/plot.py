# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Charts with logarithmic axes as one SVG picture: seconds against numbers of peers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
# Told apart by people who are blind to some colors too (Okabe and Ito).
GREEN, BLUE, ORANGE = "#009e73", "#0072b2", "#d55e00"
_WIDTH, _HEIGHT, _IN_A_ROW = 340, 300, 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 15, 35, 45
_GRID, _TEXT = "#dddddd", "#333333"


@dataclass(frozen=True)
class Line:
    name: str
    color: str
    points: Points


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class _Axis:
    """Values ``low`` to ``high`` on ``start`` to ``end`` of the picture."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def decades(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def svg(panels: Sequence[Panel]) -> str:
    """All panels have the same axes, so that they can be compared."""
    points = [point for panel in panels for line in panel.lines for point in line.points]
    across = _axis([x for x, _y in points], _LEFT, _WIDTH - _RIGHT)
    upward = _axis([y for _x, y in points], _HEIGHT - _BOTTOM, _TOP)
    width, height = _WIDTH * min(len(panels), _IN_A_ROW), _HEIGHT * math.ceil(len(panels) / _IN_A_ROW)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="sans-serif" font-size="12" fill="{_TEXT}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        place = f"{number % _IN_A_ROW * _WIDTH} {number // _IN_A_ROW * _HEIGHT}"
        parts += [f'<g transform="translate({place})">', *_drawn(panel, across, upward), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """Ends at 1, 2 or 5 times a power of ten."""
    steps = [step * 10.0**power for power in range(-6, 9) for step in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values))
    return _Axis(low, min(step for step in steps if step >= max(values) and step > low), start, end)


def _drawn(panel: Panel, across: _Axis, upward: _Axis) -> Iterator[str]:
    yield _text(_WIDTH / 2, 20, panel.title, "middle", bold=True)
    yield from _grid(across, upward)
    for number, line in enumerate(panel.lines):
        places = [(across.place(x), upward.place(y)) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="2"/>'
        yield from (f'<circle cx="{x}" cy="{y}" r="3" fill="{line.color}"/>' for x, y in places)
        height = _TOP + 16 * (number + 1)
        yield f'<path d="M{_LEFT + 8} {height - 4}h20" stroke="{line.color}" stroke-width="2"/>'
        yield _text(_LEFT + 34, height, line.name)


def _grid(across: _Axis, upward: _Axis) -> Iterator[str]:
    for value in across.decades():
        x = across.place(value)
        yield f'<path d="M{x} {upward.start}V{upward.end}" stroke="{_GRID}"/>'
        yield _text(x, upward.start + 16, f"{value:,.0f}", "middle")
    for value in upward.decades():
        y = upward.place(value)
        yield f'<path d="M{across.start} {y}H{across.end}" stroke="{_GRID}"/>'
        yield _text(across.start - 6, y + 4, f"{value:g} s" if value >= 1 else f"{1000 * value:g} ms", "end")
    yield _text((across.start + across.end) / 2, _HEIGHT - 10, "peers", "middle")


def _text(x: float, y: float, text: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
