"""What a recipe calls its curves."""

from __future__ import annotations

from typing import Any

import pytest

from service.benchmarks.recipe import describe_entry


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"type": "self_consistency"}, "self_consistency"),
        ({"type": "best_of_n", "samples": 4, "scorer": "equations"}, "best_of_n scorer=equations"),
        ({"type": "self_consistency", "stop": {"rule": "adaptive"}}, "self_consistency stop=adaptive"),
        (
            {"type": "self_consistency", "stop": {"any": [{"rule": "window", "size": 3}, {"rule": "adaptive"}]}},
            "self_consistency stop=(any=window(size=3) | adaptive)",
        ),
        (
            {"type": "best_of_n", "scorer": {"type": "all", "of": ["equations", "judge"]}, "waves": {"start": 1}},
            "best_of_n scorer=all(of=equations | judge) waves=(start=1)",
        ),
    ],
)
def test_a_curve_is_named_by_what_was_stated(body: dict[str, Any], name: str) -> None:
    assert describe_entry(body, "samples") == name
