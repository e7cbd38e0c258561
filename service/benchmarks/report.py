"""What is handed out: the table as CSV, and one HTML file with plots, tables and every question.

The file needs nothing else and runs no script. What models, questions and names say is escaped: it is anybody's text.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from io import StringIO
from itertools import zip_longest
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from service.benchmarks.grading import answer_spec
from service.benchmarks.recipe import from_spec
from service.benchmarks.results import Cell, Line, chosen
from service.durations import spell
from service.jobs import Job
from service.jobs.journal import Journal
from strategies.answers import AnswerType

SHOWN = 200
"""Questions that the report lets look into; all are in the samples."""
LONGEST = 4000
"""Characters of a candidate that the report shows."""

COMPARED: Mapping[AnswerType, str] = {
    "math": "mathematics",
    "number": "numbers",
    "choice": "choices",
    "text": "texts",
    "json": "JSON",
}

PLAIN = (
    "model",
    "name",
    "samples",
    "budget",
    "stops_early",
    "seeds",
    "n_questions",
    "accuracy",
    "pass_at_k",
    "majority_at_k",
    "flops",
    "seconds",
    "unanswered",
    "truncated",
    "effective_n",
    "failed",
    "undecided",
    "errors",
    "pareto",
)


def table(cells: Sequence[Cell]) -> str:
    """The results as CSV, a row for every cell."""
    out = StringIO()
    writer = csv.DictWriter(
        out, [*PLAIN, "ci_low", "ci_high", "tokens_policy", "tokens_scorer", "tokens_prompt", "strategy"]
    )
    writer.writeheader()
    for cell in cells:
        tokens = {f"tokens_{role}": count for role, count in cell["tokens"].items()}
        interval = dict(zip(("ci_low", "ci_high"), cell["ci"], strict=True))
        row = {name: cell.get(name) for name in PLAIN} | tokens | interval
        writer.writerow(row | {"strategy": json.dumps(cell["strategy"])})
    return out.getvalue()


def html(job: Job, figures: Mapping[str, Any], samples: Journal, most: int = SHOWN) -> str:
    """The report of a job; of its samples it shows so many questions at most."""
    from service.benchmarks import plot  # matplotlib takes a second that starting the service need not wait for

    cells = figures["results"]
    questions, asked = drill_down(samples, most)
    models = sorted({cell["model"] for cell in cells})
    request = job.spec["request"]
    return template().render(
        title=request.get("name") or f"Accuracy against compute: {', '.join(models) or job.model}",
        facts=facts(job, cells),
        status=job.status,
        error=job.error,
        cells=cells,
        several=len(models) > 1,
        axis=" or ".join(axis for axis, key in (("k", "samples"), ("budget", "budget")) if any(c[key] for c in cells)),
        size=size,
        plot=Markup(plot.svg(cells)) if cells else "",
        fits=figures["fits"],
        comparisons=figures["comparisons"],
        questions=questions,
        asked=asked,
        longest=f"{LONGEST:,}",
        label=lambda row: f"{row['model']}: {row['name']}" if len(models) > 1 else row["name"],
    )


def size(row: Mapping[str, Any]) -> str:
    """A cell's size, or its budget, for people; what a rule may end early is of at most its size."""
    if row["samples"] is None:
        return f"{row['budget']:,} tokens"
    most = "≤ " if row.get("stops_early") else ""  # results of older versions do not say
    return f"{most}{row['samples']}"


def facts(job: Job, cells: Sequence[Cell]) -> list[str]:
    request = job.spec["request"]
    dataset = {key: value for key, value in request["dataset"].items() if key != "rows"} or {"rows": "inline"}
    compared = answer_spec(from_spec(job.spec)[0]).type
    grader = request.get("grader", {}).get("type") or f"answers compared as {COMPARED[compared]}"
    return [
        job.id,
        f"model {job.model}",
        ", ".join(f"{key} {value}" for key, value in dataset.items()),
        count_questions(job, cells),
        f"seeds {request['seeds']}",
        f"grader: {grader}",
        f"{request['concurrency']} requests at a time",
        datetime.fromtimestamp(job.finished_at or job.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ]


def count_questions(job: Job, cells: Sequence[Cell]) -> str:
    """How many questions there are, and how many of them the figures are of where these are not all."""
    asked = job.spec["grid"]["questions"]
    whole = cells[0]["n_questions"] if cells else 0
    seconds = job.spec["request"].get("seconds")
    limit = f" in at most {spell(seconds)}" if seconds else ""
    return f"{asked} questions" if whole == asked else f"{whole} of {asked} questions{limit}"


def drill_down(samples: Journal, most: int) -> tuple[list[dict[str, Any]], int]:
    """The hardest questions with what became of them, and how many there are in all.

    The file is read twice, so that only the texts that are shown are held.
    """
    solved: dict[int, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for line in samples:
        solved[line["index"]][line["task"]].append(bool(chosen(line, "correct")))
    rates = {q: {task: fmean(given) for task, given in sorted(tasks.items())} for q, tasks in solved.items()}
    hardest = sorted(rates, key=lambda question: fmean(rates[question].values()))[:most]
    shown: dict[int, dict[str, Any]] = {number: {} for number in hardest}
    for line in samples:
        number, task = line["index"], line["task"]
        if number in shown:
            head = {"id": line["id"], "text": line["question"], "reference": line["reference"], "verdicts": {}}
            question = shown[number] = shown[number] or head
            if task in rates[number]:  # else it was written after the first reading
                question["verdicts"].setdefault(task, line_for_report(line) | {"rate": rates[number][task]})
    for question in shown.values():
        question["verdicts"] = [verdict for _, verdict in sorted(question["verdicts"].items())]
    return list(shown.values()), len(rates)


def line_for_report(line: Line) -> dict[str, Any]:
    """One line as the report shows it."""
    size = f"{line['budget']} tokens" if line["budget"] else line["samples"]
    candidates = [
        {**candidate, "chosen": candidate["id"] == line["chosen"], "steps": list(steps(candidate))}
        for candidate in line["candidates"]
    ]
    return {
        "name": f"{line['name']} ({size})",
        "answer": chosen(line, "answer"),
        "correct": chosen(line, "correct"),
        "votes": line["votes"],
        "tokens": line["usage"]["policy"]["completion"] + line["usage"]["scorer"]["completion"],
        "error": line["error"],
        "candidates": candidates,
    }


def steps(candidate: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a candidate with their scores; a sample is one step, whose score stands above it."""
    texts = candidate.get("steps") or [candidate["text"]]
    scores = candidate["scores"] if len(texts) > 1 else ()
    room = LONGEST
    for text, score in zip_longest(texts, scores[: len(texts)]):
        if room > 0:
            yield {"text": text[:room], "score": score}
        room -= len(text)


@cache
def template() -> Template:
    environment = Environment(
        loader=PackageLoader("service.benchmarks", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "percent": lambda rate: f"{100 * rate:.1f} %",
        "signed": lambda rate: f"{round(100 * rate, 1) + 0.0:+.1f}",
        "interval": lambda ends: f"{100 * ends[0]:.1f} – {100 * ends[1]:.1f} %",
        "number": lambda value: f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}",
        "score": lambda value: f"{value:.2f}",
        "short": lambda text: text if len(text) <= 120 else f"{text[:119]}…",
    }
    return environment.get_template("report.html")
