"""Bounds: `max_tokens` for one answer, `budget` for the request."""

from __future__ import annotations

import time
from typing import Any

import httpx
import openai
import pytest

from tests.integration.asking import ENDLESS, MODEL, asked, ending, extras, strategy, text
from tests.integration.server import Server, slowest_answer, wait_for, wait_idle

INTERVAL = 16  # tokens an event of vLLM's stream
STEP = {"max_tokens": 24}
STRATEGIES: dict[str, dict[str, Any]] = {
    "chain_of_thought": {"type": "chain_of_thought"},
    "self_consistency": {"type": "self_consistency", "samples": 4},
    "best_of_n": {"type": "best_of_n", "samples": 4},
    "beam_search": {"type": "beam_search", "beams": 4, "width": 2, "step": STEP},
    "particle_filter": {"type": "particle_filter", "particles": 4, "step": STEP},
    "mcts": {"type": "mcts", "width": 2, "wave": 2, "step": STEP},
}
CONTEXT = 8192


def ask(client: openai.OpenAI, extra: dict[str, Any], **fields: Any) -> Any:
    body: dict[str, Any] = {"model": MODEL, "messages": asked(), "extra_body": extra}
    return client.chat.completions.create(**body | fields)


def test_missing_max_tokens_is_the_rest_of_the_context(server: Server, client: openai.OpenAI, key: str) -> None:
    plan = ask(client, strategy() | {"dry_run": True}).model_extra
    body = {"model": MODEL, "messages": asked()}
    headers = {"Authorization": f"Bearer {key}"}
    prompt = httpx.post(f"{server.url}/tokenize", json=body, headers=headers, trust_env=False).json()["count"]
    assert plan["max_tokens"] == CONTEXT - prompt
    assert plan["unbounded_tokens"]["policy"] == 4 * (CONTEXT - prompt)


@pytest.mark.parametrize("type_", ["chain_of_thought", "self_consistency", "best_of_n"])
def test_missing_max_tokens_does_not_end_an_answer_at_16(client: openai.OpenAI, type_: str) -> None:
    extra = strategy(type_) | ENDLESS | {"budget": {"tokens": 96}, "include": ["candidates"]}
    told = extras(ask(client, extra))
    assert told["stopped_by"] == "tokens"
    assert min(candidate["tokens"] for candidate in told["candidates"]) > 16


def test_dry_run_generates_nothing_and_says_what_a_run_would_be(server: Server, client: openai.OpenAI) -> None:
    wait_for(lambda: server.counters().idle)
    before = server.counters().generation
    extra = strategy("best_of_n", samples=5) | {"dry_run": True, "budget": {"tokens": 70, "seconds": 9}}
    plan = ask(client, extra, max_tokens=20).model_extra
    assert plan["strategy"]["scorer"] == "judge"
    assert plan["unbounded_tokens"] == {"policy": 100, "scorer": 5}
    assert (plan["tokens"], plan["branches"], plan["rounds"]) == (70, 5, 1)
    assert plan["budget"] == {"tokens": 70, "seconds": 9}
    assert server.counters().generation == before


def test_max_tokens_bounds_each_answer_and_the_cut_is_told(client: openai.OpenAI) -> None:
    reply = ask(client, strategy() | ENDLESS | {"include": ["candidates"]}, max_tokens=10)
    told = extras(reply)
    assert [candidate["tokens"] for candidate in told["candidates"]] == [10] * 4
    assert {candidate["finish_reason"] for candidate in told["candidates"]} == {"length"}
    assert reply.choices[0].finish_reason == "length"
    assert told["votes"] == []
    assert told["stopped_by"] == "complete"


def test_max_completion_tokens_wins_over_max_tokens(client: openai.OpenAI) -> None:
    reply = ask(client, strategy(samples=2) | ENDLESS, max_tokens=40, max_completion_tokens=6)
    assert reply.usage.completion_tokens == 12


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_budget_of_tokens_is_kept_to_a_chunk_a_branch(server: Server, client: openai.OpenAI, stream: bool) -> None:
    wait_for(lambda: server.counters().idle)
    before = server.counters().generation
    extra = strategy(samples=8) | ENDLESS | {"budget": {"tokens": 64}}
    if stream:
        with ask(client, extra, stream=True) as chunks:
            last = ending(list(chunks))
    else:
        last = ask(client, extra)
    told = extras(last)
    assert told["stopped_by"] == "tokens"
    assert last.choices[0].finish_reason == "length"
    spent = told["usage"]["policy"]["completion"]
    assert 64 <= spent <= 64 + 8 * (INTERVAL + 1)
    wait_idle(server, 1)
    assert 0 <= server.counters().generation - before - spent <= 8 * (INTERVAL + 1)


def test_budget_of_tokens_keeps_a_reserve_for_the_judge(client: openai.OpenAI) -> None:
    extra = strategy("best_of_n") | {"budget": {"tokens": 200}}
    told = extras(ask(client, extra, max_tokens=32))
    assert told["stopped_by"] == "complete"
    assert told["usage"]["scorer"]["completion"] == 4


@pytest.mark.parametrize("type_", STRATEGIES)
@pytest.mark.parametrize("tokens", [40, 150, 300])
def test_every_strategy_keeps_its_budget_of_tokens(
    server: Server, client: openai.OpenAI, type_: str, tokens: int
) -> None:
    """By vLLM's own count, which knows also of what nobody was told."""
    wait_for(lambda: server.counters().idle)
    before = server.counters().generation
    extra = {"strategy": STRATEGIES[type_], "budget": {"tokens": tokens}, "include": ["candidates"]}
    told = extras(ask(client, extra | ENDLESS, max_tokens=2000))
    wait_idle(server, 1)
    assert told["stopped_by"] == "tokens"
    live = sum(candidate["finish_reason"] == "length" for candidate in told["candidates"])
    assert server.counters().generation - before - tokens <= 64 * live


@pytest.mark.parametrize("type_", STRATEGIES)
def test_budget_of_seconds_is_kept_to_a_second(server: Server, client: openai.OpenAI, type_: str) -> None:
    extra = {"strategy": STRATEGIES[type_], "budget": {"seconds": 1.5}} | ENDLESS
    with slowest_answer(server.url) as slowest:
        started = time.monotonic()
        reply = ask(client, extra)
        seconds = time.monotonic() - started
    assert 1.4 < seconds < 2.5 + slowest[0]
    assert extras(reply)["stopped_by"] == "seconds"
    assert reply.choices[0].finish_reason == "length"
    assert text(reply)
    wait_idle(server, 1)


def test_silence_is_broken_by_comments_at_least_every_five_seconds(server: Server, base_url: str, key: str) -> None:
    """Comments keep every proxy and client alive, and no client sees them."""
    body = {"model": MODEL, "messages": asked(), "stream": True, "budget": {"seconds": 6}} | strategy() | ENDLESS
    comments, data, gaps, latest = 0, 0, [], time.monotonic()
    headers = {"Authorization": f"Bearer {key}"}
    with (
        slowest_answer(server.url) as slowest,
        httpx.Client(trust_env=False, timeout=30) as client,
        client.stream("POST", f"{base_url}/chat/completions", json=body, headers=headers) as reply,
    ):
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in filter(None, reply.iter_lines()):
            gaps.append(time.monotonic() - latest)
            latest = time.monotonic()
            comments += line.startswith(": {")
            data += line.startswith("data: ")
            assert line.startswith((": {", "data: "))
    assert comments >= 1
    assert data >= 3
    assert max(gaps) < 5.8 + slowest[0]
