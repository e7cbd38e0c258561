"""The plot in the terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from service.commands.plot import MARKERS, plot


def cell(tokens: float, accuracy: float) -> dict[str, Any]:
    ci = [max(accuracy - 0.1, 0), min(accuracy + 0.1, 1)]
    return {"tokens": {"policy": tokens, "scorer": 0}, "accuracy": accuracy, "ci": ci}


CELLS = [cell(35, 0.5), cell(140, 0.75), cell(560, 0.9), cell(80, 0.85)]
NAMES = ["majority of N", "majority of N", "majority of N", "[best] of N, until verified"]


def shown(width: int, terminal: bool = False) -> list[str]:
    console = Console(width=width, file=StringIO(), color_system="256" if terminal else None)
    figure = plot(NAMES, CELLS, width)
    assert figure is not None
    with console.capture() as capture:
        console.print(figure)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 150])
def test_it_has_the_terminals_width_and_fits_one_of_24_rows(width: int) -> None:
    lines = shown(width)
    assert width - 5 <= max(map(len, lines)) <= width
    assert len(lines) <= 24


def test_a_narrow_terminal_cuts_its_lines_and_breaks_none() -> None:
    assert [len(line) > 30 for line in shown(30)] == [False] * len(shown(100))


def test_every_curve_has_its_symbol_and_every_axis_its_numbers() -> None:
    *figure, first, second = shown(100)
    assert (first, second) == ("  ● majority of N", "  ■ [best] of N, until verified")
    text = "\n".join(figure)
    assert [text.count(marker) for marker in MARKERS[:3]] == [3, 1, 0]
    ticks = [line.split("|")[0].strip() for line in figure if "%" in line]
    assert ticks == ["100%", "90%", "80%", "70%", "60%", "50%", "40%"]
    heights = [next(i for i, line in enumerate(figure) if line.lstrip().startswith(t)) for t in ("90%", "50%")]
    rows = [i for i, line in enumerate(figure) if "●" in line]
    assert (rows[0], rows[-1]) == tuple(heights), "the points stand beside their accuracies"
    tokens = [int(tick) for tick in figure[-1].strip(" |").split()]
    assert tokens == sorted(tokens)
    assert tokens[0] < 35 < tokens[1]
    assert 350 < tokens[-1] < 700


def test_colours_are_for_terminals_only() -> None:
    assert any("\x1b[" in line for line in shown(100, terminal=True))
    assert not any("\x1b[" in line for line in shown(100))


def test_there_is_no_plot_of_one_point_nor_of_what_generated_nothing() -> None:
    assert plot(["a"], [cell(35, 0.5)], 80) is None
    assert plot(["a", "b"], [cell(35, 0.5), cell(0, 0.5)], 80) is None
    assert plot([], [], 80) is None


def test_points_of_the_same_tokens_and_certain_figures_are_drawn() -> None:
    certain = {"tokens": {"policy": 5, "scorer": 0}, "accuracy": 1.0, "ci": [1.0, 1.0]}
    assert plot(["a", "b"], [certain, certain], 80) is not None
