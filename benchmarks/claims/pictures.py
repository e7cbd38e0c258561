"""Pictures of the first two claims."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.claims.curves import CHOOSING, Growth, Track
from benchmarks.claims.results import Sizes
from service.benchmarks import plot
from service.benchmarks.statistics import Floats

LABEL = "accuracy, with 95 % intervals"


def compute(found: Mapping[str, tuple[Track, Growth]]) -> str:
    """Accuracy against tokens, with the lines that were fitted."""
    with mpl.rc_context(plot.STYLE):
        figure, axes = one_plot()
        handles = draw(axes, {name: cells(each, each.mean_tokens) for name, (each, _) in found.items()})
        for _, grown in found.values():
            if grown.fit is not None:
                ends = grown.fit.tokens
                line = [grown.fit.intercept + grown.fit.slope * log2(end) for end in ends]
                axes.plot(ends, line, color=plot.GREY, linewidth=5, alpha=0.35, zorder=0)
        finish(figure, axes, handles, "tokens generated for a question")
        return plot.as_file(plot.as_text(figure))


def sizes(found: Sizes) -> str:
    """Accuracy against FLOPs of both sizes of model, and the large one's greedy answer."""
    curves = {
        f"{size}: {name}": cells(tracks[name], tracks[name].mean_flops)
        for size, tracks in (("large", found.large), ("a third", found.small))
        for name in CHOOSING
    }
    with mpl.rc_context(plot.STYLE):
        figure, axes = one_plot()
        handles = draw(axes, curves)
        axes.axhline(float(found.one.rates[0]), color=plot.GREY, linestyle=":", zorder=0)
        finish(figure, axes, handles, "FLOPs of a question (dotted: the large model's greedy answer)")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.1e}")
        return plot.as_file(plot.as_text(figure))


def one_plot() -> tuple[Figure, Axes]:
    figure = Figure(layout="constrained")
    return figure, figure.subplots()


def cells(found: Track, compute: Floats) -> list[dict[str, Any]]:
    """A track's points, as the plots of benchmarks take them."""
    points = zip(found.sizes, compute, found.rates, strict=True)
    return [{"at": float(at), "accuracy": float(rate), "ci": found.interval(size)} for size, at, rate in points]


def draw(axes: Axes, curves: plot.Curves) -> dict[str, Any]:
    return plot.draw(axes, curves, lambda cell: float(cell["at"]))


def finish(figure: Figure, axes: Axes, handles: Mapping[str, Any], label: str) -> None:
    figure.set_size_inches(8, 4.4 + 0.12 * len(handles))
    axes.set_ylabel(LABEL)
    plot.finish(axes, label)
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=2, frameon=False)
