"""`make bench`: all comparisons, as a table and as JSON in benchmarks/results/."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import answers, budgets, ceiling, fairness, overhead, profile, search
from benchmarks.machine import machine
from benchmarks.peers import racing

RESULTS = Path(__file__).parent / "results"
app = typer.Typer(add_completion=False, help="Measure the service against vLLM and against its own ceiling.")
console = Console()


@app.command()
def main(
    only: Annotated[
        str, typer.Option(help="One of the measurements; all but `peers`, which takes an hour, when left out.")
    ] = "",
    questions: Annotated[int, typer.Option(help="Questions for each comparison with vLLM.")] = 12,
    file: Annotated[Path | None, typer.Option(help="For `answers`: JSONL with a `question` in every row.")] = None,
) -> None:
    """Measure, print and keep."""
    if only in ("", "overhead"):
        keep("overhead", overhead.run(questions))
    if only in ("", "search"):
        keep("search", search.run(questions))
    if only in ("", "profile"):
        keep("profile", profile.run(questions))
    if only in ("", "answers"):
        keep("answers", answers.run(questions, file))
    if only in ("", "fairness"):
        keep("fairness", fairness.run())
    if only in ("", "ceiling"):
        keep("ceiling", ceiling.run())
    if only in ("", "budgets"):
        keep("budgets", budgets.run(questions))
    if only == "peers":
        racing.run(racing.Settings())


def keep(name: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title=f"{name} on {machine()}")
    for row in rows:
        table.add_row(*(f"{value:,.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    result = {"machine": machine(), "at": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


app()
