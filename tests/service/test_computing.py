"""Scorers that compute, from a request to its reply: equations, tests of code, graders, and those composed of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.engines.scripted import Reply, Script, ScriptedEngine
from tests.conftest import chat, outthink
from tests.watchdog import watched

PATH = "/v1/chat/completions"
RIGHT, WRONG, SILENT = "3 + 4 = 7\n\nThe answer is 7", "3 + 4 = 8\n\nThe answer is 8", "The answer is 9"
GOOD = "```python\ndef f(x):\n    return 2 * x\n```\nThe answer is 1"
HALF = "```python\ndef f(x):\n    return 2\n```\nThe answer is 2"
ODD = "```python\nimport socket\ndef f(x):\n    return 2 * x\n```\nThe answer is 3"
PROSE = "I cannot. The answer is 4"


def strategy(scorer: Any, samples: int, **more: Any) -> dict[str, Any]:
    return {"type": "best_of_n", "samples": samples, "scorer": scorer, **more}


async def candidates(answers: list[str], scorer: Any) -> dict[str, Any]:
    """The trace of best-of-N over these answers, and what was chosen."""
    async with outthink(ScriptedEngine(lambda prompt, index: Reply(answers[index % len(answers)]))) as client:
        body = chat(strategy=strategy(scorer, len(answers)), include=["candidates"])
        reply = (await client.post(PATH, json=body)).json()
    assert "error" not in reply, reply
    trace = sorted(reply["outthink"]["candidates"], key=lambda c: c["id"])
    return {"trace": trace, "chosen": reply["choices"][0]["message"]["content"], "usage": reply["outthink"]["usage"]}


async def test_an_equation_that_is_false_loses_and_no_opinion_is_neither() -> None:
    found = await candidates([WRONG, SILENT, RIGHT], "equations")
    assert [c["score"] for c in found["trace"]] == [0.0, None, 1.0]
    assert [c["scores"] for c in found["trace"]] == [[0.0, None], [None], [1.0, None]]
    assert "3 + 4 = 8" in found["trace"][0]["reasons"][0]
    assert all(c["reasons"] for c in found["trace"]), "why there is no opinion"
    assert found["chosen"] == RIGHT
    assert found["usage"]["scorer"]["completion"] == 0


async def test_code_is_scored_by_the_share_of_tests_that_it_passes() -> None:
    scorer = {"type": "tests", "tests": ["assert f(1) == 2", "assert f(3) == 6"]}
    found = await candidates([HALF, ODD, PROSE, GOOD], scorer)
    assert [c["score"] for c in found["trace"]] == [0.5, None, 0.0, 1.0]
    assert found["chosen"] == GOOD
    assert all(c["reasons"][0] for c in found["trace"][:3])


async def test_programs_are_tested_by_what_they_print() -> None:
    double = "```python\nprint(2 * int(input()))\n```"
    found = await candidates([double], {"type": "tests", "tests": [{"stdin": "3\n", "stdout": "6\n"}]})
    assert found["trace"][0]["score"] == 1.0


@pytest.mark.parametrize(
    "grader",
    [
        {"type": "string_check", "name": "g", "input": "{{sample.output_text}}", "operation": "like"}
        | {"reference": "{{item.right}}"},
        {"type": "python", "name": "g", "source": "def grade(sample, item):\n"}
        | {"source": "def grade(sample, item):\n    return float(item['right'] in sample['output_text'])"},
        {"type": "regex", "name": "g", "input": "{{sample.output_text}}", "pattern": "= 7"},
    ],
    ids=lambda grader: str(grader["type"]),
)
async def test_any_grader_is_a_scorer(grader: dict[str, Any]) -> None:
    found = await candidates([WRONG, RIGHT], {"type": "grader", "grader": grader, "item": {"right": "= 7"}})
    assert [c["score"] for c in found["trace"]] == [0.0, 1.0]


async def test_a_grader_that_fails_has_no_opinion() -> None:
    grader = {"type": "python", "name": "g", "source": "def grade(sample, item):\n    return item['no']"}
    found = await candidates([RIGHT], {"type": "grader", "grader": grader})
    assert found["trace"][0]["score"] is None
    assert "python_grader_runtime_error" in found["trace"][0]["reasons"][0]


async def test_a_filter_saves_the_judge_s_tokens() -> None:
    def script(prompt: str, index: int) -> Reply:
        if "Reply Yes or No." in prompt:
            return Reply("Yes", labels={"Yes": 0.0, "No": -1.0})
        return Reply([WRONG, RIGHT, WRONG][index % 3])

    async with outthink(ScriptedEngine(script)) as client:
        body = chat(strategy=strategy({"type": "all", "of": ["equations", "generative"]}, 3), include=["candidates"])
        extra = (await client.post(PATH, json=body)).json()["outthink"]
    assert extra["usage"]["scorer"]["completion"] == 2, "of the one that is right, two paragraphs"


SEARCHES: list[dict[str, Any]] = [
    {"type": "beam_search", "beams": 4, "width": 4},
    {"type": "particle_filter", "particles": 4},
    {"type": "mcts", "iterations": 8, "width": 4, "wave": 2},
    {"type": "mcts", "iterations": 8, "width": 4, "wave": 2, "value": "rollout"},
]
FALSE = "3 + 4 = 8\n\nThe answer is 8"
UNCHECKED = "Let me see\n\nThe answer is 9"
LONG = "4 + 3 = 7\n\n" + "Well, " * 300 + "the answer is 7"


def solutions(*said: str) -> Script:
    """Branch i begins the i-th solution; of those that go on with one, the first does so in few words. What has become
    longer than any ends."""

    def script(prompt: str, index: int) -> Reply:
        path = prompt.partition("6 * 7?")[2]
        begun = next((text for text in [*said[index:], *said] if text.startswith(path)), f"{path} well")
        return Reply(begun[len(path) :] + ", well" * (300 if path and index else 0))

    return script


async def one_turn() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: json.dumps(search))
async def test_the_first_path_whose_every_equation_holds_ends_a_search(search: dict[str, Any]) -> None:
    spent = []
    for stop in ({"rule": "none"}, {"rule": "verified"}):
        engine = ScriptedEngine(solutions(FALSE, UNCHECKED, RIGHT, LONG), pause=one_turn)
        async with outthink(engine) as client:
            body = chat(strategy=search | {"scorer": "equations", "stop": stop}, include=["candidates"])
            reply = (await client.post(PATH, json=body)).json()
        said = reply["outthink"]
        spent.append(said["usage"]["policy"]["completion"])
        assert spent[-1] == engine.generated == reply["usage"]["completion_tokens"]
        assert engine.open_streams == 0
        assert reply["choices"][0]["message"]["content"].startswith(RIGHT)
    assert said["stopped_by"] == "converged"
    assert (said["decision"]["rule"], said["decision"]["confidence"], said["decision"]["saved"]) == ("verified", 1.0, 0)
    assert said["strategy"]["stop"] == {"rule": "verified", "score": 1.0, "count": 1}
    assert spent[1] < spent[0]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: json.dumps(search))
async def test_a_search_without_a_verified_path_goes_on(search: dict[str, Any]) -> None:
    """What is false is not verified, nor what has nothing to check."""
    async with outthink(ScriptedEngine(solutions(FALSE, UNCHECKED))) as client:
        body = chat(strategy=search | {"scorer": "equations", "select": "best", "stop": {"rule": "verified"}})
        said = (await client.post(PATH, json=body)).json()["outthink"]
    assert said["stopped_by"] == "complete"
    assert "decision" not in said


@pytest.mark.parametrize(
    ("scorer", "param"),
    [
        ({"type": "tests"}, "strategy.scorer.tests"),
        ({"type": "tests", "tests": [{"stdin": "1"}]}, "strategy.scorer.tests"),
        ({"type": "tests", "tests": ["x" * 2_000_000]}, "strategy.scorer.tests"),
        ({"type": "tests", "tests": ["x"] * 101}, "strategy.scorer.tests"),
        ({"type": "all", "of": ["all", "equations"]}, "strategy.scorer.of[0].of"),
        ({"type": "all", "of": ["equations"]}, "strategy.scorer.of"),
        ({"type": "all", "of": ["equations", "nope"]}, "strategy.scorer.of[1]"),
        ({"type": "all", "of": ["logprob", "self_certainty"]}, "strategy.scorer.of"),
        ({"type": "first", "of": ["equations", {"type": "tests"}]}, "strategy.scorer.of[1].tests"),
        ({"type": "grader"}, "strategy.scorer.grader"),
        ({"type": "grader", "grader": {"type": "nope"}}, "strategy.scorer.grader.type"),
        (
            {"type": "grader", "grader": {"type": "python", "name": "g", "source": "def nothing(): pass"}},
            "strategy.scorer.grader.source",
        ),
        (
            {"type": "all", "of": ["equations", {"type": "grader", "grader": {"type": "regex", "name": "g"}}]},
            "strategy.scorer.of[1].grader.pattern",
        ),
    ],
)
async def test_what_cannot_be_a_scorer_is_refused_by_its_path(scorer: dict[str, Any], param: str) -> None:
    async with outthink(ScriptedEngine(lambda prompt, index: Reply("x"))) as client:
        reply = await client.post(PATH, json=chat(strategy=strategy(scorer, 2)))
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["param"].startswith(param), error
    assert len(error["message"]) < 500


async def test_scorers_are_composed_two_deep_at_most() -> None:
    nested: Any = "equations"
    for _ in range(4):
        nested = {"type": "all", "of": [nested, "equations"]}
    async with outthink(ScriptedEngine(lambda prompt, index: Reply("x"))) as client:
        reply = await client.post(PATH, json=chat(strategy=strategy(nested, 2)))
    assert (reply.status_code, "2 deep" in reply.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("text", ["(" * 1_000_000 + "= 1", "1 + 1 = 2\n" * 100_000, "9**9**9**9 = 1", "1 = " * 50_000])
async def test_hostile_answers_have_a_score_or_none_and_a_reason(text: str) -> None:
    found = await candidates([text], "equations")
    [candidate] = found["trace"]
    assert candidate["score"] in (None, 1.0)
    assert candidate["reasons"] or candidate["score"] == 1.0


SMALL: dict[str, dict[str, Any]] = {
    "beam_search": {"beams": 4, "width": 2},
    "particle_filter": {"particles": 4},
    "mcts": {"iterations": 2, "width": 2, "value": "rollout"},
}


@pytest.mark.parametrize("type_", SMALL)
async def test_a_path_of_a_search_says_why_it_has_no_better_score(type_: str) -> None:
    body = chat(strategy={"type": type_, **SMALL[type_], "scorer": "equations"}, include=["candidates"])
    async with outthink(ScriptedEngine(lambda prompt, index: Reply(f"3 + 4 = 8\n\nIt is {index}."))) as client:
        reply = (await client.post(PATH, json=body)).json()
    found = [candidate for candidate in reply["outthink"]["candidates"] if candidate["score"] == 0]
    assert found
    assert all("3 + 4 = 8" in candidate["reasons"][0] for candidate in found)


@pytest.mark.parametrize("type_", SMALL)
@pytest.mark.parametrize("scorer", ["logprob", "self_certainty"])
async def test_a_search_asks_for_the_log_probabilities_that_its_scorer_reads(type_: str, scorer: str) -> None:
    """The probability of every token is 1/2."""
    half = Reply("a b\n\nIt is c.", logprob=-0.6931)
    body = chat(strategy={"type": type_, **SMALL[type_], "scorer": scorer}, include=["candidates"])
    async with outthink(ScriptedEngine(lambda prompt, index: half)) as client:
        reply = (await client.post(PATH, json=body)).json()
    scores = [candidate["score"] for candidate in reply["outthink"]["candidates"]]
    assert all(score == pytest.approx(0.5, abs=1e-3) if scorer == "logprob" else score > 0.1 for score in scores)


async def test_a_model_that_is_not_there_is_named_by_its_part() -> None:
    scorer = {"type": "first", "of": ["equations", {"type": "generative", "model": "nope"}]}
    async with outthink(ScriptedEngine(lambda prompt, index: Reply("x"))) as client:
        error = (await client.post(PATH, json=chat(strategy=strategy(scorer, 2)))).json()["error"]
    assert error["param"] == "strategy.scorer.of[1].model"


async def test_composed_scorers_keep_the_loop_free_whatever_the_number_of_steps() -> None:
    """Sixteen thousand paragraphs took 16 s when every beginning of them was folded anew."""
    text = "\n\n".join(f"a{i}" for i in range(4000))
    scorer = {"type": "all", "of": ["equations", "equations"]}
    async with outthink(ScriptedEngine(lambda prompt, index: Reply(text))) as client:
        await client.post(PATH, json=chat(strategy=strategy("equations", 1)))  # starts the pool
        async with watched() as loop:
            reply = await client.post(PATH, json=chat(strategy=strategy(scorer, 1)))
    assert reply.status_code == 200
    assert loop.longest < 0.1, loop
