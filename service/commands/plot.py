"""Accuracy against tokens in the terminal: a line for every strategy, its points with 95 % intervals, and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2
from typing import Any

from plotille import Figure
from rich.console import Group
from rich.text import Text

COLOURS = ("cyan", "magenta", "green", "yellow", "red", "blue")
MARKERS = "●■▲◆▼○□△◇"
MARGIN = 25
"""Columns for the numbers at the left and the label at the right."""
NARROWEST, HEIGHT = 20, 14
BLANK = "\u2800"
"""Braille without dots, which a log need not hold."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of log2(tokens), accuracy and the ends of its interval, by tokens; as a symbol and colour show them."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    marker: str
    colour: str


def plot(names: Sequence[str], cells: Sequence[Mapping[str, Any]], width: int) -> Group | None:
    """The cells of equal names as curves, so many columns wide; None where there is less than two to compare."""
    curves = read_curves(names, cells)
    if sum(len(curve.points) for curve in curves) < 2:
        return None
    shown = draw(curves, max(width - MARGIN, NARROWEST)).replace(BLANK, " ")
    legend = [Text(f"  {curve.marker} {curve.name}", style=curve.colour) for curve in curves]
    return Group(*(cut(line) for line in (Text.from_ansi(shown), *legend)))


def cut(text: Text) -> Text:
    """Lines that are too long for the terminal lose their end, since broken ones would spoil the figure."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def read_curves(names: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Those that have points: nothing that was generated has a logarithm."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, cell in zip(names, cells, strict=True):
        tokens = cell["tokens"]["policy"] + cell["tokens"]["scorer"]
        if tokens > 0:
            points.setdefault(name, []).append((log2(tokens), cell["accuracy"], *cell["ci"]))
    return [
        Curve(name, sorted(found), MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)])
        for number, (name, found) in enumerate(points.items())
    ]


def draw(curves: Sequence[Curve], width: int) -> str:
    """The figure. Each curve stands half a column beside the one before it, so that no interval hides another."""
    figure = Figure()
    figure.width, figure.height = width, HEIGHT
    figure.color_mode, figure.origin = "names", False
    figure.x_label, figure.y_label = "tokens", "accuracy"
    figure.x_ticks_fkt = lambda low, _: f"{2**low:,.0f}"
    figure.y_ticks_fkt = tenth
    points = [point for curve in curves for point in curve.points]
    left, right = min(x for x, *_ in points) - 0.2, max(x for x, *_ in points) + 0.2
    figure.set_x_limits(left, right)
    bottom, top = floor(10 * min(low for *_, low, _ in points)) / 10, ceil(10 * max(high for *_, high in points)) / 10
    figure.set_y_limits(min(bottom, top - 0.1), top)
    column = (right - left) / width
    for number, curve in enumerate(curves):
        aside = (number - (len(curves) - 1) / 2) * column / 2
        xs, ys = [x + aside for x, *_ in curve.points], [y for _, y, *_ in curve.points]
        for x, (_, _, low, high) in zip(xs, curve.points, strict=True):
            figure.plot([x, x], [low, high], lc=curve.colour)
        figure.plot(xs, ys, lc=curve.colour)
        figure.scatter(xs, ys, lc=curve.colour, marker=curve.marker)
    return str(figure.show())


def tenth(low: float, high: float) -> str:
    """The multiple of 10 % that a row holds, if any."""
    tick = ceil(round(10 * low, 6)) / 10
    return f"{tick:.0%}".rjust(10) if tick < high - 1e-9 else ""
