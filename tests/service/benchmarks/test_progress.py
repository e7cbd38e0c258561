"""How long a grid takes, from what is done and what runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from service.benchmarks import progress
from service.benchmarks.progress import Pace, TaskProgress, expected_tokens
from service.benchmarks.recipe import Task
from service.durations import spell

ONE, MANY = (Task("m", "a", {"type": "best_of_n"}, (size,), tokens=100 * size) for size in (1, 16))


def line(tokens: int, seconds: float = 1.0) -> dict[str, Any]:
    usage = {"policy": {"completion": tokens}, "scorer": {"completion": 0}}
    return {"usage": usage, "candidates": [], "chosen": None, "seconds": seconds}


def pace(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Of two tasks with ten questions, on a clock that is set by hand."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return Pace({0: TaskProgress(ONE, 10), 1: TaskProgress(MANY, 10)}, started=clock[0])


def test_a_task_without_answers_is_expected_to_use_as_much_of_its_bound_as_the_others() -> None:
    tallies = [TaskProgress(ONE, 10), TaskProgress(MANY, 10)]
    assert expected_tokens(tallies) == [100, 1600], "with no answer at all, the bounds"
    tallies[0].add(line(30))
    tallies[0].add(line(50))
    assert expected_tokens(tallies) == [40, 640]
    tallies[1].add(line(300))
    assert expected_tokens(tallies) == [40, 300], "and what was measured once there is an answer"


def test_the_rest_is_estimated_for_the_whole_grid_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    of = pace(clock, monkeypatch)
    assert of.seconds_for(10) is None, "no speed is known"
    of.add((0, 0, 0), line(40))
    of.add((1, 0, 0), line(360))
    clock[0] += 4
    assert of.speed == 100
    assert of.seconds_for(10) == pytest.approx(9 * 400 / 100)
    assert of.seconds_for(1) == 0


def test_what_runs_counts_as_its_tokens_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    of = pace(clock, monkeypatch)
    of.add((0, 0, 0), line(40))
    of.running[1, 0, 0] = SimpleNamespace(generated=160)  # type: ignore[assignment]
    clock[0] = 2.0
    assert of.speed == 100
    assert of.seconds_for(1) == pytest.approx((640 - 160) / 100)
    of.add((1, 0, 0), line(640))
    assert not of.running, "which are then counted once"
    assert of.speed == 340


def test_what_was_done_before_a_restart_makes_it_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    of = pace(clock, monkeypatch)
    of.add((0, 0, 0), line(40))
    of.before, of.spent = 40, 60.0
    clock[0] = 1.0
    assert (of.speed, of.seconds) == (0, 61)
    of.add((1, 0, 0), line(360))
    assert of.speed == 360


def test_time_is_enough_for_the_work_and_the_slowest_request_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    of = pace(clock, monkeypatch)
    assert of.fits(1, 0.1), "nobody knows yet"
    of.add((0, 0, 0), line(40))
    of.add((1, 0, 0), line(360, seconds=3.0))
    clock[0] = 4.0
    assert of.fits(2, 7.0)
    assert not of.fits(2, 6.9)
    assert not of.fits(1, 0.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (45.4, "45 s"), (59.6, "1 min"), (220, "3 min 40 s"), (7509, "2 h 5 min"), (7200, "2 h")],
)
def test_spans_of_time_are_said_in_two_units(seconds: float, said: str) -> None:
    assert spell(seconds) == said
