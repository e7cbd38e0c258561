"""Tokens reported are tokens that vLLM's own counters counted, to the token, for every strategy and scorer."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.integration.asking import MODEL, asked, ending, extras, strategy
from tests.integration.server import Counters, Server, wait_for

SCORERS = ("judge", "listwise_judge", "p_true", "logprob", "self_certainty", "deepconf", "equations")
FORMATS = ("yes_no", "rlhflow", "math_shepherd")
CASES: dict[str, dict[str, Any]] = {
    "chain_of_thought": strategy("chain_of_thought"),
    "self_consistency": strategy("self_consistency"),
    **{f"weighted-{s}": strategy("self_consistency", vote="weighted", scorer=s) for s in SCORERS},
    **{f"best-{s}": strategy("best_of_n", scorer=s) for s in SCORERS},
    "weighted_vote": strategy("best_of_n", select="weighted_vote"),
    **{f"{f}-judge": strategy("best_of_n", scorer={"type": "generative", "format": f}) for f in FORMATS},
}


@pytest.fixture
def before(server: Server) -> Counters:
    """The counters of an engine that does nothing."""
    wait_for(lambda: server.counters().idle)
    return server.counters()


def counted(server: Server, before: Counters, generation: int, prompt: int) -> tuple[int, int]:
    """What vLLM counted since; it writes its counters just after it answers, so they are given a moment."""

    def now() -> tuple[int, int]:
        after = server.counters()
        return after.generation - before.generation, after.prompt - before.prompt

    try:
        wait_for(lambda: now() == (generation, prompt) and server.counters().idle, 30)
    except AssertionError:
        return now()
    return generation, prompt


def answered(client: openai.OpenAI, stream: bool, **fields: Any) -> tuple[dict[str, Any], Any]:
    """The `outthink` key and OpenAI's usage of a reply, streamed or whole."""
    if not stream:
        reply = client.chat.completions.create(model=MODEL, **fields)
        return extras(reply) if "outthink" in (reply.model_extra or {}) else {}, reply.usage
    options: Any = {"include_usage": True}
    with client.chat.completions.create(model=MODEL, stream=True, stream_options=options, **fields) as chunks:
        every = list(chunks)
    last = ending(every)
    return extras(last) if "outthink" in (last.model_extra or {}) else {}, every[-1].usage


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_reported_tokens_are_counted_tokens(
    server: Server, client: openai.OpenAI, before: Counters, case: str, stream: bool
) -> None:
    told, usage = answered(client, stream, messages=asked(), max_tokens=16, extra_body=CASES[case])
    spent = told["usage"]
    policy, scorer = spent["policy"], spent["scorer"]
    sums = [policy[name] + scorer[name] for name in ("completion", "prompt")]
    assert counted(server, before, sums[0], sums[1]) == tuple(sums)
    judged = case.endswith(("judge", "p_true", "weighted_vote"))
    assert (scorer["completion"] > 0) == (scorer["requests"] > 0) == judged
    assert usage.completion_tokens == policy["completion"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens * (1 if case == "chain_of_thought" else 4) == policy["prompt"]
    assert spent["flops"] > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_plain_usage_is_vllms(server: Server, client: openai.OpenAI, before: Counters, stream: bool) -> None:
    told, usage = answered(client, stream, messages=asked(), max_tokens=16)
    assert told == {}
    expected = usage.completion_tokens, usage.prompt_tokens
    assert counted(server, before, *expected) == expected


def test_prompt_tokens_are_the_callers_prompt_once(server: Server, client: openai.OpenAI, key: str) -> None:
    body = {"model": MODEL, "messages": asked()}
    headers = {"Authorization": f"Bearer {key}"}
    count = httpx.post(f"{server.url}/tokenize", json=body, headers=headers, trust_env=False).json()["count"]
    _, usage = answered(client, False, messages=asked(), max_tokens=4, extra_body=strategy(samples=3))
    assert usage.prompt_tokens == count


def test_service_counts_what_vllm_counts(server: Server, client: openai.OpenAI, before: Counters) -> None:
    spent = server.metric("outthink_tokens_total", strategy="best_of_n")
    answered(client, False, messages=asked(), max_tokens=8, extra_body=strategy("best_of_n"))
    wait_for(lambda: server.counters().idle)
    assert server.metric("outthink_tokens_total", strategy="best_of_n") - spent == (
        server.counters().generation - before.generation
    )
