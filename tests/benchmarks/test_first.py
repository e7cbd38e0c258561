"""README shows what the first benchmark measured, and its recipe is for everyone."""

from __future__ import annotations

import json

from benchmarks.first import BEGIN, END, README, RECIPE, RESULTS, table, with_table
from service.commands.bench import read_recipe
from service.engines import bundled


def test_readme_shows_what_was_measured() -> None:
    found = json.loads(RESULTS.read_text())
    assert f"{BEGIN}\n{table(found)}{END}" in README.read_text()
    assert found["seconds"] < 240, "the first benchmark is of four minutes"


def test_a_new_table_takes_the_place_of_the_old_one() -> None:
    found = json.loads(RESULTS.read_text())
    page = with_table(f"before\n{BEGIN}old\n{END}after\n", found)
    assert page.startswith(f"before\n{BEGIN}\n| | size |")
    assert page.endswith(f"{END}after\n")
    assert "old" not in page


def test_it_asks_the_adapter_that_comes_with_the_product() -> None:
    assert read_recipe(RECIPE)["model"] == bundled.NAME
