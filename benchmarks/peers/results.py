"""The file of the results, which grows by a row at a time, and the tables that are made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.peers.methods import PEERS
from service.benchmarks.statistics import wilson

COLUMNS = ("method", "right", "95 %", "generated", "read", "s/question", "failed", "beyond the common knobs")
BEGIN, END = "<!-- peers: made by `make peers` -->", "<!-- peers: end -->"
FEW = 50  # questions

Row = Mapping[str, Any]


class OtherSettings(Exception):
    """The file has results that cannot stand in one table with new ones."""


@dataclass(slots=True)
class Results:
    """What is known of the methods under the same settings on the same machine; `order` is that of the table."""

    file: Path
    settings: Mapping[str, Any]
    order: Sequence[str]
    rows: dict[str, Row] = field(default_factory=dict)
    at: str = ""

    @classmethod
    def load(cls, file: Path, settings: Mapping[str, Any], order: Sequence[str], fresh: bool) -> Results:
        """Those of the file, none if they are to be `fresh`; raise OtherSettings when they are of other settings."""
        results = cls(file, settings, order)
        if fresh or not file.exists():
            return results
        kept = json.loads(file.read_text())
        if different := sorted(name for name in settings if kept["settings"].get(name) != settings[name]):
            raise OtherSettings(f"{file} was measured with another {', '.join(different)}: give --fresh, or --out")
        results.rows, results.at = {row["method"]: row for row in kept["rows"]}, kept["at"]
        return results

    def done(self, method: str) -> bool:
        """Whether a method has answered; one that could not is tried again."""
        return "right" in self.rows.get(method, ())

    def keep(self, row: Row) -> None:
        self.rows[row["method"]] = row
        self.at = datetime.now(UTC).isoformat(timespec="seconds")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.json(), indent=1) + "\n")
        partial.replace(self.file)

    def json(self) -> dict[str, Any]:
        found = [self.rows[name] for name in self.order if name in self.rows]
        return {"settings": self.settings, "at": self.at, "rows": found}


def cells(row: Row) -> list[str]:
    """The cells of a row; tokens and seconds are of one question. Where there are no answers, the error."""
    peer, _, method = row["method"].partition("/")
    name = f"{PEERS[peer].title}, {method}"
    if "right" not in row:
        return [name, "", "", "", "", "", "all", row["error"]]
    marks, n = row["right"], len(row["right"])
    rate = marks.count("1") / n
    low, high = wilson(rate, n)
    return [
        name,
        f"{rate:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{row['generated'] / n:,.0f}",
        f"{(row['prompt'] - row['cached']) / n:,.0f}",
        f"{row['seconds'] / n:.2f}",
        str(row["failed"]),
        row["knobs"],
    ]


def rich_table(results: Mapping[str, Any]) -> Table:
    """For a terminal: without the knobs, with the errors."""
    table = Table(*COLUMNS[:-1], "error", title=headline(results["settings"]))
    for row in results["rows"]:
        table.add_row(*cells(row)[:-1], row["error"] or "")
    return table


def headline(settings: Mapping[str, Any]) -> str:
    trial = "A trial, of which nothing can be concluded: " if settings["questions"] < FEW else ""
    return trial + (
        f"{settings['questions']} questions, {settings['model']}, {settings['samples']} samples, temperature "
        f"{settings['temperature']:g}, at most {settings['max_tokens']} tokens an answer and {settings['step_tokens']} "
        f"a step, {settings['at_once']} questions at a time; {settings['machine']}"
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The part of docs/performance.md that is made of the results, with its marks."""
    lines = [["---"] * len(COLUMNS), *(escaped(cells(row)) for row in results["rows"])]
    table = [f"| {' | '.join(line)} |" for line in (COLUMNS, *lines)]
    day = results["at"].partition("T")[0]
    return "\n".join([BEGIN, f"{headline(results['settings'])}; {day}.", "", *table, END])


def escaped(line: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("<", "&lt;") for cell in line]


def write_page(page: Path, results: Mapping[str, Any]) -> None:
    """Put the table of these results between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + markdown(results) + rest.partition(END)[2])
