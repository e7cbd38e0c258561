"""Sampling that stops when the vote is decided, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.engines.scripted import Reply, ScriptedEngine
from strategies.errors import EngineUnavailable
from tests.conftest import chat, outthink

PATH = "/v1/chat/completions"
ADAPTIVE = {"type": "self_consistency", "samples": 16, "stop": {"rule": "adaptive"}}


def agreed(prompt: str, branch: int) -> Reply | str:
    return "\\boxed{42}"


def even(prompt: str, branch: int) -> Reply | str:
    return f"\\boxed{{{branch % 2}}}"


@pytest.mark.parametrize("name", ["self_consistency", "sc"])
async def test_the_presets_of_self_consistency_stop_when_the_vote_is_decided(name: str) -> None:
    engine = ScriptedEngine(agreed)
    async with outthink(engine) as client:
        reply = (await client.post(PATH, json=chat() | {"model": f"smollm2@{name}"})).json()
    said = reply["outthink"]
    assert said["stopped_by"] == "converged"
    assert said["decision"] == {"rule": "adaptive", "samples": 4, "confidence": 0.96875, "saved": 12}
    assert said["votes"] == [{"answer": "42", "count": 4, "weight": 4.0}]
    assert said["strategy"]["stop"] == {"rule": "adaptive", "confidence": 0.95}
    assert said["usage"]["policy"]["completion"] == engine.generated == 4
    assert [call.n for _, call in engine.calls] == [4]


@pytest.mark.parametrize("strategy", ["self_consistency", {"type": "self_consistency", "stop": {"rule": "none"}}])
async def test_a_strategy_of_the_request_draws_all_its_samples_at_once_unless_told_otherwise(strategy: Any) -> None:
    engine = ScriptedEngine(agreed)
    async with outthink(engine) as client:
        said = (await client.post(PATH, json=chat(strategy=strategy))).json()["outthink"]
    assert said["stopped_by"] == "complete"
    assert "decision" not in said
    assert [call.n for _, call in engine.calls] == [16]


async def test_presets_stop_by_default() -> None:
    async with outthink(ScriptedEngine(agreed)) as client:
        presets = (await client.get("/v1/strategies")).json()["presets"]
    adaptive = {name for name, preset in presets.items() if preset.get("stop", {}).get("rule") == "adaptive"}
    assert adaptive == {"self_consistency", "sc", "best_of_n", "best_of_4", "best_of_16"}
    assert presets["sc"] == presets["self_consistency"]


async def test_what_stopping_saves_is_counted() -> None:
    """Samples 0 to 3 decide; 4 to 6 were drawn in the same wave, and nine were never asked for."""
    async with outthink(ScriptedEngine(agreed)) as client:
        await client.post(PATH, json=chat(strategy=ADAPTIVE | {"waves": {"start": 7}}))
        text = (await client.get("/metrics")).text
    assert 'outthink_samples_saved_total{strategy="self_consistency"} 9.0' in text
    assert 'outthink_samples_total{outcome="complete",strategy="self_consistency"} 4.0' in text
    assert 'outthink_samples_total{outcome="unused",strategy="self_consistency"} 3.0' in text
    assert 'outthink_tokens_total{fate="discarded",role="policy",strategy="self_consistency"} 6.0' in text


async def test_progress_tells_the_votes_after_every_wave_and_the_last_chunk_the_decision() -> None:
    texts = ["\\boxed{1}", "\\boxed{2}", *["\\boxed{1}"] * 6]
    told = asyncio.Event()

    async def second_wave_waits() -> None:
        if len(engine.calls) > 1:
            await told.wait()

    engine = ScriptedEngine(lambda prompt, branch: texts[branch], pause=second_wave_waits)
    body = chat(strategy=ADAPTIVE, stream=True, include=["progress"])
    async with outthink(engine) as client, client.stream("POST", PATH, json=body) as reply:
        said = []
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                said.append(json.loads(line[6:]).get("outthink", {}))
                if "votes" in said[-1].get("progress", {}):
                    told.set()
    first = next(one["progress"] for one in said if "votes" in one.get("progress", {}))
    last = next(one for one in said if "stopped_by" in one)
    assert (first["votes"], first["confidence"]) == ([3, 1], 0.8125)
    assert last["decision"] == {"rule": "adaptive", "samples": 10, "confidence": 1 - 67 / 2048, "saved": 4}


async def test_a_dry_run_bounds_what_the_waves_may_spend() -> None:
    async with outthink(ScriptedEngine(agreed)) as client:
        plan = (await client.post(PATH, json=chat(strategy=ADAPTIVE, max_tokens=10, dry_run=True))).json()
    assert (plan["rounds"], plan["branches"], plan["tokens"]) == (3, 16, 160)


async def test_a_vote_that_is_never_decided_draws_all_and_says_so() -> None:
    async with outthink(ScriptedEngine(even)) as client:
        strategy = ADAPTIVE | {
            "stop": {"any": [{"rule": "adaptive", "confidence": 0.999}, {"rule": "window", "size": 4}]}
        }
        said = (await client.post(PATH, json=chat(strategy=strategy | {"samples": 8}))).json()["outthink"]
    assert said["strategy"]["stop"]["rule"] == "any"
    assert said["decision"] == {"rule": "majority", "samples": 7, "confidence": 1.0, "saved": 0}


BAD: list[tuple[Any, str, str]] = [
    ({"stop": {"rule": "adaptive", "confidence": 0.5}}, "strategy.stop.confidence", "greater than 0.5"),
    ({"stop": {"rule": "adaptive", "confidence": 1}}, "strategy.stop.confidence", "less than 1"),
    ({"stop": {"rule": "adaptive", "confidence": "0.9"}}, "strategy.stop.confidence", "number"),
    ({"stop": {"rule": "adaptive", "size": 3}}, "strategy.stop.size", "not permitted"),
    ({"stop": {"rule": "window", "size": 1}}, "strategy.stop.size", "greater than or equal to 2"),
    ({"stop": {"rule": "window", "size": 65}}, "strategy.stop.size", "64"),
    ({"stop": {"rule": "window", "size": 17}}, "strategy.stop.size", "at most 16"),
    ({"stop": {"rule": "verified"}}, "strategy.stop", "scorer"),
    ({"vote": "weighted", "stop": {"rule": "verified", "score": 0}}, "strategy.stop.score", "greater than 0"),
    ({"vote": "weighted", "stop": {"rule": "verified", "score": 1.5}}, "strategy.stop.score", "1"),
    ({"vote": "weighted", "stop": {"rule": "verified", "count": 0}}, "strategy.stop.count", "1"),
    ({"vote": "weighted", "stop": {"rule": "verified", "count": 17}}, "strategy.stop.count", "at most 16"),
    ({"stop": {"rule": "often"}}, "strategy.stop", "one of none, adaptive, window, verified, any"),
    ({"stop": {"rule": ["none"]}}, "strategy.stop", "one of none"),
    ({"stop": {}}, "strategy.stop", "one of none"),
    ({"stop": "adaptive"}, "strategy.stop", "one of none"),
    ({"stop": None}, "strategy.stop", "one of none"),
    ({"stop": {"rule": "any"}}, "strategy.stop.any", "required"),
    ({"stop": {"any": []}}, "strategy.stop.any", "at least 1"),
    ({"stop": {"any": [{"rule": "adaptive"}] * 9}}, "strategy.stop.any", "at most 8"),
    ({"stop": {"any": [{"rule": "adaptive"}, {"rule": "window", "size": 1}]}}, "strategy.stop.any[1].size", "2"),
    ({"stop": {"any": [{"any": [{"rule": "adaptive"}]}]}}, "strategy.stop.any[0]", "one of adaptive"),
    ({"stop": {"any": [{"rule": "none"}]}}, "strategy.stop.any[0]", "one of adaptive"),
    ({"waves": {"start": 2}}, "strategy.waves", "without a rule"),
    ({"stop": {"rule": "adaptive"}, "waves": {"start": 0}}, "strategy.waves.start", "1"),
    ({"stop": {"rule": "adaptive"}, "waves": {"growth": 0.5}}, "strategy.waves.growth", "1"),
    ({"stop": {"rule": "adaptive"}, "waves": {"cap": 2000}}, "strategy.waves.cap", "1024"),
]


@pytest.mark.parametrize(("strategy", "param", "message"), BAD, ids=[json.dumps(bad[0]) for bad in BAD])
async def test_what_makes_no_sense_is_400_and_names_the_field(strategy: Any, param: str, message: str) -> None:
    engine = ScriptedEngine(agreed)
    async with outthink(engine) as client:
        reply = await client.post(PATH, json=chat(strategy={"type": "self_consistency", **strategy}))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert engine.calls == []


async def test_a_deeply_nested_rule_is_refused_as_any_other() -> None:
    nested: Any = {"rule": "adaptive"}
    for _ in range(900):
        nested = {"any": nested}
    async with outthink(ScriptedEngine(agreed)) as client:
        reply = await client.post(PATH, json=chat(strategy=ADAPTIVE | {"stop": nested}))
    assert reply.status_code == 400


async def test_a_scorer_that_compares_all_samples_takes_no_rule() -> None:
    strategy = {"type": "best_of_n", "scorer": "listwise_judge", "stop": {"rule": "adaptive"}}
    async with outthink(ScriptedEngine(agreed)) as client:
        for dry_run in (True, False):
            error = (await client.post(PATH, json=chat(strategy=strategy, dry_run=dry_run))).json()["error"]
            assert error["param"] == "strategy.stop"


SEARCH = {"type": "beam_search", "beams": 8, "width": 4}
BAD_IN_SEARCHES: list[tuple[Any, str, str]] = [
    ({"stop": {"rule": "window"}}, "strategy.stop", "independent samples"),
    ({"stop": {"rule": "adaptive"}}, "strategy.stop", "independent samples"),
    ({"stop": {"any": [{"rule": "verified"}, {"rule": "window"}]}}, "strategy.stop.any[1]", "independent samples"),
    ({"stop": {"rule": "verified", "count": 16}}, "strategy.stop.count", "at most 15"),
    ({"stop": {"rule": "verified", "score": 2}}, "strategy.stop.score", "1"),
    ({"stop": {"rule": "often"}}, "strategy.stop", "one of none"),
    ({"stop": None}, "strategy.stop", "one of none"),
    ({"waves": {"start": 2}}, "strategy.waves", "not permitted"),
    ({"type": "particle_filter", "stop": {"rule": "window"}}, "strategy.stop", "independent samples"),
    ({"type": "particle_filter", "stop": {"rule": "verified", "count": 9}}, "strategy.stop.count", "at most 8"),
    ({"type": "mcts", "stop": {"rule": "window"}}, "strategy.stop", "independent samples"),
    ({"type": "mcts", "stop": {"rule": "verified", "count": 17}}, "strategy.stop.count", "at most 16"),
]
SIZES = {"particle_filter": {"particles": 8}, "mcts": {"iterations": 4, "width": 4}}


@pytest.mark.parametrize(
    ("strategy", "param", "message"), BAD_IN_SEARCHES, ids=[json.dumps(b[0]) for b in BAD_IN_SEARCHES]
)
async def test_what_is_no_rule_of_a_search_is_400_and_names_the_field(strategy: Any, param: str, message: str) -> None:
    engine = ScriptedEngine(agreed)
    async with outthink(engine) as client:
        sized = SIZES.get(strategy.get("type"), SEARCH) | strategy
        reply = await client.post(PATH, json=chat(strategy=sized))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert engine.calls == []


async def test_the_presets_of_searches_go_to_their_end() -> None:
    async with outthink(ScriptedEngine(agreed)) as client:
        presets = (await client.get("/v1/strategies")).json()["presets"]
    for name in ("beam_search", "dvts", "particle_filter", "mcts"):
        assert presets[name]["stop"] == {"rule": "none"}


async def test_a_search_that_is_ended_is_counted() -> None:
    """The first of four paths is verified, and the others are aborted, which the engine waits for."""
    texts = ["\\boxed{42}", *["Well, " * 400] * 3]
    asked = asyncio.Event()
    left = 100  # turns before the scorer is asked, and again behind that

    def script(prompt: str, branch: int) -> Reply | str:
        nonlocal left
        if "Reply Yes or No." not in prompt:
            return texts[branch]
        left = 100
        asked.set()
        return Reply("Yes", labels={"Yes": 0.0, "No": -9.0})

    async def pause() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            await (asyncio.Event() if asked.is_set() else asked).wait()
        await asyncio.sleep(0)

    engine = ScriptedEngine(script, pause=pause, interval=1)
    async with outthink(engine) as client:
        strategy = {"type": "beam_search", "beams": 4, "stop": {"rule": "verified", "score": 0.9}}
        reply = (await client.post(PATH, json=chat(strategy=strategy))).json()
        text = (await client.get("/metrics")).text
    usage = reply["outthink"]["usage"]
    assert reply["outthink"]["decision"]["samples"] == 1
    assert usage["policy"]["completion"] + usage["scorer"]["completion"] == engine.generated < 600
    assert usage["scorer"]["completion"] == 1
    assert 'outthink_samples_total{outcome="complete",strategy="beam_search"} 1.0' in text
    assert 'outthink_samples_total{outcome="unused",strategy="beam_search"} 3.0' in text
    assert 'outthink_samples_saved_total{strategy="beam_search"} 0.0' in text
    cancelled = f'fate="cancelled",role="policy",strategy="beam_search"}} {usage["policy"]["completion"] - 1.0}'
    assert cancelled in text


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "best_of_n", "scorer": "generative"},
        {"type": "self_consistency", "vote": "weighted", "scorer": "generative"},
        {"type": "self_consistency", "vote": "confidence"},
    ],
)
async def test_branches_that_a_scorer_lost_are_no_samples(strategy: dict[str, Any]) -> None:
    """The scorer's request breaks with a label already read, when the samples are drawn and agree."""
    asked = 0

    def script(prompt: str, index: int) -> Reply:
        nonlocal asked
        if "Reply Yes or No." not in prompt and "Is the" not in prompt:
            return Reply("Yes or No. The answer is 7")
        asked += 1
        error = EngineUnavailable("reset") if asked > 1 else None
        return Reply("Yes", labels={"Yes": -0.1, "No": -2.0}, error=error)

    rule = {"samples": 12, "stop": {"rule": "window", "size": 2}}
    async with outthink(ScriptedEngine(script)) as client:
        reply = await client.post(PATH, json=chat("6 * 7?", strategy=strategy | rule))
        metrics = (await client.get("/metrics")).text
    assert reply.status_code == 200, reply.text
    failed = [line for line in metrics.splitlines() if 'outcome="failed"' in line and "samples_total" in line]
    assert all(line.endswith(" 0.0") for line in failed)
