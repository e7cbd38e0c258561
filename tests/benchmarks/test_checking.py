"""What the page of the lab's second part, and the measurement without training, say of what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.checking import POLICIES, SAMPLED, draw, interpolate, page, sizes, table
from benchmarks.lab import Scale
from benchmarks.untrained import chosen, majority
from tests.benchmarks.test_lab import cell

SCALE = Scale(tests=200, samples=16)


def state() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, policy in POLICIES.items():
        results = [cell(str(policy["type"]), size, 0.9, 0.75) for size in sizes(policy, SCALE)]
        found[f"{name}.job"] = {"minutes": 2.0, "results": results}
    return found


def test_every_policy_has_its_sizes_and_the_majority_is_read_off_the_samples() -> None:
    cells = list(table(state()))
    assert [c["samples"] for c in cells if c["name"] == SAMPLED] == [1, 2, 4, 8, 16]
    assert [c["accuracy"] for c in cells if c["name"] == "majority of N"] == [0.75] * 5
    assert {c["samples"] for c in cells if c["name"] == "majority, adaptive"} == {16}
    assert {c["samples"] for c in cells if c["name"] == "MCTS by equations"} == {4}


def test_the_page_says_what_was_reached_and_at_what_cost() -> None:
    text = page(state(), SCALE)
    assert "| best of N by equations | 16 | 90.0 % (85.1 % to 93.4 %) | 90.0 % | 960 |" in text
    assert (
        "Majority's accuracy at 55 % of its tokens by stopping alone: 90.0% against 75.0%, at 100% of the tokens."
        in text
    )
    assert "89 % at 120 tokens by `verified`: 90.0% at 960 tokens." in text
    assert "MCTS by equations, size 4: 90.0% at 240 tokens; best of N by equations at as many: 90.0%." in text
    assert draw(state()).startswith("<?xml")


@pytest.mark.parametrize(("x", "y"), [(0, 0.5), (1, 0.5), (2, 0.6), (3, 0.7), (9, 0.7)])
def test_a_curve_is_read_between_its_points(x: float, y: float) -> None:
    assert interpolate([(3, 0.7), (1, 0.5)], x) == pytest.approx(y)


def test_the_majority_is_of_those_that_vote_and_the_first_among_equals() -> None:
    said = [(None, False), (1, False), (0, True), (0, True), (1, False)]
    line: dict[str, Any] = {
        "chosen": 1,
        "candidates": [{"id": i, "group": g, "correct": c} for i, (g, c) in enumerate(said)],
    }
    assert (majority(line), chosen(line)) == (False, False)
    assert majority({"candidates": line["candidates"][2:]})
    assert not majority({"candidates": []})
