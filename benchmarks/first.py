"""`python -m benchmarks.first`: run the first benchmark (recipes/first.toml) on a server of its own, and put what it
says where README shows it: benchmarks/results/first.json, docs/first.svg and the table in README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from benchmarks.machine import machine
from benchmarks.servers import service
from service.benchmarks import plot
from service.commands.bench import follow_job, read_recipe
from service.commands.client import connect, read_reply

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "benchmarks" / "recipes" / "first.toml"
RESULTS = ROOT / "benchmarks" / "results" / "first.json"
PLOT, README = ROOT / "docs" / "first.svg", ROOT / "README.md"
BEGIN, END = "<!-- written by benchmarks/first.py -->\n", "<!-- end -->\n"

Cell = Mapping[str, Any]


def run() -> dict[str, Any]:
    """The results, with how long they took."""
    with service() as server, connect(server.url, "") as client:
        began = datetime.now(UTC)
        job = follow_job(client, read_reply(client.post("/benchmarks", json=read_recipe(RECIPE)))["id"])
        seconds = round((datetime.now(UTC) - began).total_seconds())
    if job["status"] != "succeeded":
        raise typer.Exit(1)
    return {"machine": machine(), "date": f"{began:%Y-%m-%d}", "seconds": seconds, "results": job["results"]}


def table(found: Mapping[str, Any]) -> str:
    """README's table, and where its figures are from."""
    cells = found["results"]
    minutes, seconds = divmod(found["seconds"], 60)
    return "\n".join(
        [
            "| | size | right (95 %) | tokens a question |",
            "| --- | --- | --- | --- |",
            *rows(cells),
            "",
            f"{cells[0]['n_questions']} questions, {minutes} min {seconds} s on {found['machine']}, {found['date']}.",
            "",
        ]
    )


def rows(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        low, high = cell["ci"]
        right = f"{cell['accuracy']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")
        size = f"{'≤ ' * cell['stops_early']}{cell['samples']}"
        yield f"| {cell['name']} | {size} | {right} | {cell['tokens']['policy'] + cell['tokens']['scorer']:,.0f} |"


def with_table(page: str, found: Mapping[str, Any]) -> str:
    """A page with its table anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(found)}{END}{after}"


def main() -> None:
    found = run()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PLOT.write_text(plot.as_file(plot.svg(found["results"])))
    README.write_text(with_table(README.read_text(), found))


if __name__ == "__main__":
    typer.run(main)
