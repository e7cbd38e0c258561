"""What the measurement without training reads off samples."""

from __future__ import annotations

from typing import Any

from benchmarks.untrained import chosen, majority


def test_the_majority_is_of_those_that_vote_and_the_first_among_equals() -> None:
    said = [(None, False), (1, False), (0, True), (0, True), (1, False)]
    line: dict[str, Any] = {
        "chosen": 1,
        "candidates": [{"id": i, "group": g, "correct": c} for i, (g, c) in enumerate(said)],
    }
    assert (majority(line), chosen(line)) == (False, False)
    assert majority({"candidates": line["candidates"][2:]})
    assert not majority({"candidates": []})
