"""A new strategy and a new scorer are one file and one line: the line is all that is done for them here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from service.app import create_app
from service.engines.scripted import Reply, ScriptedEngine
from service.settings import Settings
from strategies import STRATEGIES
from strategies.knobs import knob
from strategies.scorers import SCORERS
from strategies.select import by_vote
from strategies.session import Session, Strategy
from strategies.types import Call, Event, Plan, Scorer, Selection
from tests.conftest import chat, outthink
from tests.examples_of.brevity import Brevity
from tests.examples_of.first_of_two import FirstOfTwo
from tests.service.benchmarks import asking
from tests.service.benchmarks.asking import done, request
from tests.service.benchmarks.sums import sums

PATH = "/v1/chat/completions"
REPLIES = ("a long answer that is cut", "It is \\boxed{42}", "It is, as I think, \\boxed{41}")
BRIEF = {"type": "best_of_n", "samples": 3, "scorer": "brevity"}


@dataclass(frozen=True, slots=True)
class Ballot(Strategy):
    """A vote with a knob of another name, which says that smaller sizes can be read off a run."""

    type: ClassVar[str] = "ballot"
    summary: ClassVar[str] = "A vote."
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = "draws × answer"
    temperature_default: ClassVar[float | None] = 0.7
    size_knob: ClassVar[str | None] = "draws"

    draws: int = knob(3, "Answers to sample.", ge=1, le=9)

    @property
    def selection(self) -> Selection:
        return "majority"

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        return Plan(1, self.draws, self.draws * max_tokens)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        yield by_vote(await session.read(await session.sample(Call(self.draws))))


@pytest.fixture(autouse=True)
def the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two registries would say."""
    monkeypatch.setitem(STRATEGIES, "first_of_two", FirstOfTwo)
    monkeypatch.setitem(STRATEGIES, "ballot", Ballot)
    monkeypatch.setitem(SCORERS, "brevity", Brevity)


def said(prompt: str, branch: int) -> Reply:
    return Reply(REPLIES[branch], finish_reason="length" if branch == 0 else "stop")


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await client.post(PATH, json=chat(**fields))
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


async def complain(client: httpx.AsyncClient, **fields: Any) -> tuple[str, str]:
    """The parameter and the message of a refusal."""
    reply = await client.post(PATH, json=chat(**fields))
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["param"], error["message"]


async def plan_tasks(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    reply = await client.post(asking.PATH, json=request(dry_run=True, **fields))
    assert reply.status_code == 200, reply.text
    tasks: list[dict[str, Any]] = reply.json()["tasks"]
    return tasks


@pytest.mark.parametrize("example", ["first_of_two", "brevity"])
def test_the_docs_show_the_example_as_it_is_tested(example: str) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    [shown] = [block for block in blocks if f'ClassVar[str] = "{example}"' in block]
    assert shown in Path(__file__).with_name(f"{example}.py").read_text()


# The strategy


async def test_the_strategy_answers_by_its_type_and_by_its_preset_and_all_it_spent_is_counted() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        for asked in ({"strategy": "first_of_two"}, {"model": "smollm2@first_of_two"}):
            told = await ask(client, **asked)
            assert told["choices"][0]["message"]["content"] == REPLIES[1]
            assert told["outthink"]["strategy"] == {"type": "first_of_two", "samples": 2, "temperature": 0.7}
            spent = told["outthink"]["usage"]["policy"]
            assert spent["completion"] == told["usage"]["completion_tokens"] == 6 + 3


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"strategy": {"type": "first_of_two", "samples": 9}},
            "strategy.samples",
            "strategy.samples: Input should be less than or equal to 8, not 9",
        ),
        (
            {"strategy": {"type": "first_of_two", "samples": 7}},
            "strategy.samples",
            "this server has at most 6 branches a request",
        ),
        (
            {"strategy": {"type": "first_of_two", "width": 1}},
            "strategy.width",
            "strategy.width: Extra inputs are not permitted, not 1",
        ),
        (
            {"strategy": "first_of_two", "n": 3},
            "n",
            "n must be at most 2, as many as strategy.samples allows, not 3",
        ),
        (
            {"strategy": "nope"},
            "strategy",
            f"there is no strategy 'nope'; there are {', '.join(STRATEGIES)}, first_of_two",
        ),
    ],
)
async def test_what_is_wrong_with_the_strategy_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    async with outthink(ScriptedEngine(said), settings=Settings(max_samples=6)) as client:
        named, told = await complain(client, **fields)
    assert named == param
    assert told.startswith(message)


async def test_the_strategy_is_described_wherever_strategies_are() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        listed = (await client.get("/v1/strategies")).json()
        models = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        body = (await client.get("/openapi.json")).json()["paths"][PATH]["post"]["requestBody"]
    [entry] = [entry for entry in listed["data"] if entry["type"] == "first_of_two"]
    samples = entry["parameters"]["properties"]["samples"]
    assert (samples["default"], samples["minimum"], samples["maximum"]) == (2, 1, 8)
    assert (entry["summary"], entry["default_temperature"]) == ("Two answers, the first complete one.", 0.7)
    assert listed["presets"]["first_of_two"] == {"type": "first_of_two", "samples": 2}
    assert "smollm2@first_of_two" in models
    named, *types = body["content"]["application/json"]["schema"]["properties"]["strategy"]["anyOf"]
    assert "first_of_two" in named["enum"]
    assert [type_["properties"]["samples"] for type_ in types if type_.get("title") == "FirstOfTwo"] == [samples]


async def test_a_benchmark_runs_the_strategy_at_every_size() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        tasks = await plan_tasks(client, strategies=["first_of_two"], samples=[1, 4])
        whole = await plan_tasks(client, strategies=["first_of_two"], samples=None)
        bounded = await plan_tasks(client, strategies=["first_of_two"], samples=None, budgets=[50])
        job = await done(client, strategies=["first_of_two"], samples=[1, 4])
    assert tasks == [{"type": "first_of_two", "samples": 1}, {"type": "first_of_two", "samples": 4}]
    assert whole == bounded == [{"type": "first_of_two"}]
    assert [cell["samples"] for cell in job["results"]] == [1, 4]
    assert job["results"][1]["tokens"]["policy"] > 3 * job["results"][0]["tokens"]["policy"]


async def test_a_strategy_that_says_how_it_chooses_is_run_once_for_all_sizes() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        tasks = await plan_tasks(client, strategies=["ballot"], samples=[1, 4])
        job = await done(client, strategies=["ballot"], samples=[1, 2])
        param, message = await complain(client, strategy="ballot", n=4)
    assert tasks == [{"type": "ballot", "draws": 4}]
    assert [cell["strategy"] for cell in job["results"]] == [{"type": "ballot", "draws": k} for k in (1, 2)]
    assert (param, message) == ("n", "n must be at most 3, as many as strategy.draws allows, not 4")


# The scorer


@pytest.mark.parametrize("scorer", ["brevity", {"type": "brevity"}, {"type": "brevity", "half": 8}])
async def test_the_scorer_chooses_and_costs_what_it_says(scorer: str | dict[str, Any]) -> None:
    async with outthink(ScriptedEngine(said)) as client:
        told = await ask(client, strategy={**BRIEF, "scorer": scorer}, include=["candidates"])
    half = scorer.get("half", 256) if isinstance(scorer, dict) else 256
    scores = [candidate["score"] for candidate in told["outthink"]["candidates"]]
    assert told["choices"][0]["message"]["content"] == REPLIES[1]
    assert scores == pytest.approx([0.5 ** (words / half) for words in (6, 3, 6)])
    assert told["outthink"]["usage"]["scorer"] == {"prompt": 0, "cached": 0, "completion": 0, "requests": 0}
    assert told["outthink"]["strategy"]["aggregate"] == "last"


@pytest.mark.parametrize(
    ("scorer", "param", "message"),
    [
        (
            {"type": "brevity", "half": 0},
            "strategy.scorer.half",
            "strategy.scorer.half: Input should be greater than or equal to 1, not 0",
        ),
        (
            {"type": "brevity", "third": 1},
            "strategy.scorer.third",
            "strategy.scorer.third: Extra inputs are not permitted, not 1",
        ),
        ("nope", "strategy.scorer", f"there is no scorer 'nope'; there are {', '.join(SCORERS)}, brevity"),
    ],
)
async def test_what_is_wrong_with_the_scorer_is_named(scorer: Any, param: str, message: str) -> None:
    async with outthink(ScriptedEngine(said)) as client:
        assert await complain(client, strategy={**BRIEF, "scorer": scorer}) == (param, message)


async def test_the_scorer_is_described_wherever_scorers_are() -> None:
    async with outthink(ScriptedEngine(said)) as client:
        listed = (await client.get("/v1/strategies")).json()
        body = (await client.get("/openapi.json")).json()["paths"][PATH]["post"]["requestBody"]
    assert "brevity" in listed["scorers"]
    [entry] = [entry for entry in listed["scorer_types"] if entry["type"] == "brevity"]
    half = entry["parameters"]["properties"]["half"]
    assert (half["default"], half["minimum"], half["description"]) == (
        256,
        1,
        "Tokens after which the score has halved.",
    )
    assert (entry["summary"], entry["cost"]) == ("Prefers short answers.", "nothing")
    _, *types = body["content"]["application/json"]["schema"]["properties"]["strategy"]["anyOf"]
    [best_of_n] = [type_ for type_ in types if type_.get("title") == "BestOfN"]
    members = best_of_n["properties"]["scorer"]["anyOf"]
    assert [member["properties"]["half"] for member in members if member.get("title") == "Brevity"] == [half]


async def test_the_scorer_stands_in_presets_and_its_name_is_taken() -> None:
    settings = Settings(presets={"brief": {"strategy": BRIEF}})
    async with outthink(ScriptedEngine(said), settings=settings) as client:
        told = await ask(client, model="smollm2@brief")
    assert told["choices"][0]["message"]["content"] == REPLIES[1]
    with pytest.raises(ValueError, match="taken by a built-in scorer"):
        create_app(Settings(scorers={"brevity": {"kind": "prm", "model": "tiny"}}), manage=False)


async def test_a_benchmark_runs_once_for_all_sizes_unless_the_scorer_compares_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strategies = [{"type": "best_of_n", "scorer": {"type": "brevity", "half": 9}}]
    async with outthink(ScriptedEngine(sums)) as client:
        once = await plan_tasks(client, strategies=strategies, samples=[1, 4])
        job = await done(client, strategies=strategies, samples=[1, 4])
        monkeypatch.setattr(Brevity, "comparative", True)
        every = await plan_tasks(client, strategies=strategies, samples=[1, 4])
    assert once == [{**strategies[0], "samples": 4}]
    assert [cell["samples"] for cell in job["results"]] == [1, 4]
    assert every == [{**strategies[0], "samples": k} for k in (1, 4)]
