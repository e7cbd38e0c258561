"""Accuracy against tokens and against seconds, as SVG: sharp in print, small, and without scripts.

Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart; markers and dashes differ as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from math import ceil
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from service.benchmarks.statistics import pareto

Cell = Mapping[str, Any]
Curves = Mapping[str, Sequence[Cell]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
GREY = "#767676"
STYLE: Any = {  # of matplotlib's own type, which lists all its names
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "outthink",  # the same figure is the same file
    "font.family": "sans-serif",
    "text.parse_math": False,  # a strategy's name is no formula
}
LONGEST = 60
"""Characters of a curve's name that the legend shows: a longer one would push the others out of the figure."""


def svg(cells: Sequence[Cell]) -> str:
    """Both plots beside each other, under one legend."""
    curves = curves_by_name(cells)
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        handles = (
            draw(left, curves, generated_tokens)
            | pareto_line(left, curves, generated_tokens)
            | oracle_line(left, curves)
        )
        draw(right, curves, seconds)
        pareto_line(right, curves, seconds)
        figure.set_size_inches(11, 4.4 + 0.24 * ceil(len(handles) / 2))  # the plots keep their height over any legend
        left.set_ylabel("accuracy, with 95 % intervals")
        finish(left, "tokens generated for a request, scorer included")
        finish(right, "seconds of a request, where they were measured")
        names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in handles]
        figure.legend([*handles.values()], names, loc="outside lower center", ncols=2, frameon=False)
        return as_text(figure)


def as_text(figure: Figure) -> str:
    """The figure as an element of a page."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue().partition("<svg")[2].join(("<svg", ""))


def as_file(element: str) -> str:
    """An element of a page as a file of its own."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + element


def curves_by_name(cells: Sequence[Cell]) -> Curves:
    """The cells of every curve; the model is part of its name where there are several."""
    several = len({cell["model"] for cell in cells}) > 1
    curves: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        curves[f"{cell['model']}: {cell['name']}" if several else f"{cell['name']}".lstrip("_")].append(cell)
    return curves


def generated_tokens(cell: Cell) -> float:
    return float(cell["tokens"]["policy"] + cell["tokens"]["scorer"])


def seconds(cell: Cell) -> float | None:
    return None if cell["seconds"] is None else float(cell["seconds"])


def draw(axes: Axes, curves: Curves, x: Callable[[Cell], float | None]) -> dict[str, Any]:
    """A line with error bars for every curve; returns what the legend shows of them."""
    handles: dict[str, Any] = {}
    for number, (name, cells) in enumerate(curves.items()):
        points = sorted((at, c["accuracy"], *c["ci"]) for c in cells if (at := x(c)) is not None)
        if not points:
            continue
        xs, ys, lows, highs = zip(*points, strict=True)
        below = [max(y - low, 0) for y, low in zip(ys, lows, strict=True)]
        above = [max(high - y, 0) for y, high in zip(ys, highs, strict=True)]
        handles[name] = axes.errorbar(
            xs,
            ys,
            yerr=(below, above),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number % len(DASHES)],
            capsize=3,
            elinewidth=1,
        )
    return handles


def pareto_line(axes: Axes, curves: Curves, x: Callable[[Cell], float | None]) -> dict[str, Any]:
    """Over the cells that no other one beats in accuracy for this cost."""
    every = (cell for cells in curves.values() for cell in cells)
    points = sorted((at, cell["accuracy"]) for cell in every if (at := x(cell)) is not None)
    unbeaten = pareto([at for at, _ in points], [accuracy for _, accuracy in points])
    best = [point for point, is_best in zip(points, unbeaten, strict=True) if is_best]
    if not best:  # nothing was measured
        return {}
    (line,) = axes.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=5, alpha=0.35, zorder=0)
    return {"Pareto: nothing cheaper is as accurate": line}


def oracle_line(axes: Axes, curves: Curves) -> dict[str, Any]:
    """What an oracle would choose from the samples of the first curve that has some."""
    for name, cells in curves.items():
        points = sorted((generated_tokens(cell), cell["pass_at_k"]) for cell in cells)
        if len(points) > 1:
            (line,) = axes.plot(*zip(*points, strict=True), color=GREY, linestyle=":", marker=".")
            return {f"oracle (pass@k): {name}": line}
    return {}


def finish(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.set_xscale("log", base=2)
        low, high = axes.get_xlim()
        narrow = high < 4 * low  # where powers of two would be one tick, or none
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(2, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}" if x < 1000 else f"{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
