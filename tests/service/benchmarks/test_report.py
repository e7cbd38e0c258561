"""What is handed out: one HTML file that needs nothing and believes nobody, and a table."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest

from service.benchmarks import plot, report
from service.engines.scripted import ScriptedEngine
from tests.conftest import outthink
from tests.service.benchmarks.asking import PATH, done, lines
from tests.service.benchmarks.sums import HOSTILE, sums

VOID = {"meta", "link", "br", "use", "path"}
STRATEGIES = ["self_consistency", {"type": "mcts", "scorer": "logprob", "samples": [2, 4], "name": '_$x$<img src="y">'}]


class Page(HTMLParser):
    """Notes the elements and what they refer to, and that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


async def test_report_is_one_file_that_runs_nothing() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, strategies=STRATEGIES, seeds=2, name="<b>Bold</b>")
        reply = await client.get(f"{PATH}/{job['id']}/report")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in reply.headers["content-security-policy"]
    page = Page(reply.text)
    assert page.open == []
    assert {"script", "img", "iframe", "object", "b"} & set(page.elements) == {"b"}, "the only bold text is ours"
    assert page.elements.count("svg") == 1
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    text = "".join(page.text)
    assert HOSTILE in text
    assert "<b>Bold</b>" in text
    assert '_$x$<img src="y"> (4)' in text
    for word in ("Start with", "Reference", "chosen", "Pareto", "no answer", "cut", "score 0."):
        assert word in text, word


async def test_report_looks_into_the_hardest_and_says_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "LONGEST", 12)
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client)
        written = await lines(client, job)
        path = f"{PATH}/{job['id']}/report"
        text = "".join(Page((await client.get(path, params={"questions": 2})).text).text)
        without = (await client.get(path, params={"questions": 0})).text
        refused = await client.get(path, params={"questions": -1})
    wrong = [line for line in written if not any(c["correct"] for c in line["candidates"] if c["id"] == line["chosen"])]
    assert "2 of 6; all are in samples.jsonl" in text
    assert text.count("Reference: ") == 2
    assert all(line["question"] in text for line in sorted(wrong, key=lambda line: line["index"])[:2])
    assert HOSTILE[:12] in text
    assert HOSTILE not in text
    assert "Cells" in without
    assert not any(line["question"] in without for line in written)
    assert refused.json()["error"]["param"] == "questions"


def cell(name: str, tokens: float, seconds: float | None) -> dict[str, Any]:
    figures = {"accuracy": 0.5, "ci": [0.4, 0.6], "pass_at_k": 0.7}
    return {"model": "m", "name": name, "tokens": {"policy": tokens, "scorer": 0}, "seconds": seconds, **figures}


def words(svg: str) -> list[str]:
    """The texts of a plot, in their order: the ticks and the label of an axis, and at last the legend."""
    return re.findall("<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(("low", "high"), [(33, 60), (700, 701), (1000, 9_000_000), (0.003, 0.005), (5, 5)])
def test_every_axis_has_numbers(low: float, high: float) -> None:
    shown = words(plot.svg([cell("a", low, low), cell("a", high, high)]))
    ticks = shown[: shown.index("tokens generated for a request, scorer included")]
    numbers = [float(tick.replace(",", "")) for tick in ticks]
    assert 2 <= len(numbers) == len(set(numbers)) <= 7, "which do not run into each other"
    assert low / 2 <= numbers[0] < numbers[-1] <= high * 2


def test_nothing_measured_is_an_empty_plot() -> None:
    shown = words(plot.svg([cell("a", 10, None)]))
    assert "seconds of a request, where they were measured" in shown


def test_the_legend_holds_many_and_long_names() -> None:
    names = ["x" * 200, *(f"curve {number}" for number in range(30))]
    few, many = (plot.svg([cell(name, k, k) for name in some for k in (1, 8)]) for some in (names[1:3], names))
    assert {"x" * 59 + "…", *names[1:]} <= set(words(many))
    assert plotted(many) >= plotted(few) > 200


def plotted(svg: str) -> float:
    """How high the plots are, in points: the first one's background goes from its bottom to its top."""
    background = re.search(r'id="axes_1".*?d="M \S+ (\S+) \nL \S+ \S+ \nL \S+ (\S+) ', svg, re.DOTALL)
    assert background is not None
    return float(background[1]) - float(background[2])


async def test_the_report_says_how_answers_were_compared_and_which_sizes_are_budgets() -> None:
    strategies = ["self_consistency", {"type": "best_of_n", "scorer": "logprob", "budgets": [1000]}]
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, strategies=strategies, answer={"type": "number"}, samples=[2])
        text = "".join(Page((await client.get(f"{PATH}/{job['id']}/report")).text).text)
    assert "grader: answers compared as numbers" in text
    assert "k or budget" in text
    assert "1,000 tokens" in text


async def test_a_long_answer_is_shown_once_in_its_text() -> None:
    rows = [{"question": "why?", "answer": "because"}]
    async with outthink(ScriptedEngine(lambda prompt, branch: f"{branch} " + "so " * 301)) as client:
        job = await done(client, dataset={"rows": rows}, answer={"type": "text"}, samples=[4])
        (line,) = await lines(client, job)
        text = "".join(Page((await client.get(f"{PATH}/{job['id']}/report")).text).text)
    assert all(len(candidate["answer"]) > 800 for candidate in line["candidates"])
    assert text.count("so " * 60) == 4 * 5


async def test_csv_has_a_row_for_every_cell() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client)
        reply = await client.get(f"{PATH}/{job['id']}/results.csv")
    rows = list(csv.DictReader(StringIO(reply.text)))
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert [row["samples"] for row in rows] == ["1", "2", "4"]
    for row, cell in zip(rows, job["results"], strict=True):
        assert json.loads(row["strategy"]) == cell["strategy"]
        assert [float(row["ci_low"]), float(row["ci_high"])] == cell["ci"]
        assert float(row["tokens_policy"]) == cell["tokens"]["policy"]
        assert set(cell) - {"ci", "tokens"} <= set(row)
