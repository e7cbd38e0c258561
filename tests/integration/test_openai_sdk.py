"""The official SDK, unmodified, against the server: what works with OpenAI works here, with and without a strategy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionNamedToolChoiceParam, ChatCompletionStreamOptionsParam
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel

from tests.integration.asking import CITIES, ENDLESS, MODEL, WEATHER, asked, ending, extras, joined, strategy, text

EVERY_STRATEGY = (strategy("chain_of_thought"), strategy("self_consistency"), strategy("best_of_n"))
NAMED: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "weather"}}
VERDICT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "integer", "enum": [41, 42]}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    answer: Literal["yes", "no"]


def by_type(extra: Mapping[str, Any]) -> str:
    return str(extra["strategy"]["type"])


def test_plain_request_is_answered(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=asked(), max_tokens=16)
    assert text(reply)
    assert reply.model == MODEL
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens <= 16
    assert "outthink" not in (reply.model_extra or {})


def test_plain_stream_comes_token_by_token(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model=MODEL, messages=asked(), max_tokens=16, stream=True) as stream:
        chunks = list(stream)
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 4
    assert ending(chunks) is chunks[-1]


@pytest.mark.parametrize("extra", EVERY_STRATEGY, ids=by_type)
def test_strategy_answers_a_chat_completion(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=asked(), max_tokens=32, extra_body=extra)
    assert text(reply)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.system_fingerprint == f"{MODEL}:base"
    told = extras(reply)
    assert told["strategy"].items() >= extra["strategy"].items()
    assert told["stopped_by"] == "complete"
    assert "candidates" not in told
    assert reply.usage is not None
    assert reply.usage.completion_tokens == told["usage"]["policy"]["completion"]


@pytest.mark.parametrize("extra", EVERY_STRATEGY, ids=by_type)
def test_strategy_streams_what_every_client_can_read(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    options: ChatCompletionStreamOptionsParam = {"include_usage": True}
    with client.chat.completions.create(
        model=MODEL,
        messages=asked(),
        max_tokens=32,
        extra_body=extra,
        stream=True,
        stream_options=options,
    ) as stream:
        chunks = list(stream)
    assert joined(chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert extras(ending(chunks))["strategy"]["type"] == by_type(extra)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == extras(ending(chunks))["usage"]["policy"]["completion"]


def test_chain_of_thought_streams_token_by_token(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=16, stream=True, extra_body=strategy("chain_of_thought") | ENDLESS
    ) as stream:
        chunks = list(stream)
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 8


async def test_async_client_gets_the_same_shapes(aclient: openai.AsyncOpenAI) -> None:
    reply = await aclient.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=16, extra_body=strategy(samples=2)
    )
    assert text(reply)
    assert extras(reply)["usage"]["policy"]["requests"] == 1
    stream = await aclient.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=16, stream=True, extra_body=strategy(samples=2)
    )
    async with stream:
        chunks = [chunk async for chunk in stream]
    assert joined(chunks)
    assert extras(ending(chunks))["rounds"] == 1


def test_preset_is_chosen_by_the_models_name(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=f"{MODEL}@small", messages=asked(), max_tokens=16)
    assert extras(reply)["strategy"].items() >= {"samples": 4, "temperature": 0.9}.items()
    assert reply.model == MODEL


def test_strategy_in_the_body_wins_over_the_preset(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=f"{MODEL}@small", messages=asked(), max_tokens=8, extra_body=strategy(samples=2)
    )
    assert extras(reply)["strategy"].items() >= {"samples": 2, "temperature": 0.7}.items()


def test_stream_helper_ends_with_the_winner(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=asked(), max_tokens=32, extra_body=strategy() | {"include": ["progress"]}
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content
    assert final.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("extra", [{"temperature": 0}, strategy()], ids=["plain", "self_consistency"])
def test_parse_returns_the_callers_own_type(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    reply = client.chat.completions.parse(
        model=MODEL, messages=asked("Is water wet?"), max_tokens=40, response_format=Verdict, extra_body=extra
    )
    assert isinstance(reply.choices[0].message.parsed, Verdict)


def test_json_replies_vote_as_canonical_json(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=asked("17 + 25?"),
        max_tokens=40,
        response_format=VERDICT,
        extra_body=strategy(samples=6) | {"include": ["candidates"]},
    )
    told = extras(reply)
    spellings = {'{"answer":41}', '{"answer":42}'}
    assert {vote["answer"] for vote in told["votes"]} <= spellings
    assert sum(vote["count"] for vote in told["votes"]) == sum(c["finish_reason"] == "stop" for c in told["candidates"])
    assert json.dumps(json.loads(text(reply)), separators=(",", ":")) == told["votes"][0]["answer"]


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("extra", [{"temperature": 0}, strategy()], ids=["plain", "self_consistency"])
def test_forced_tool_calls_are_well_formed(client: openai.OpenAI, choice: Any, extra: dict[str, Any]) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=asked("What is the weather in Paris?"),
        max_tokens=96,
        tools=[WEATHER],
        tool_choice=choice,
        extra_body=extra,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    [call] = calls
    assert call.type == "function"
    assert call.id
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in CITIES
    if "strategy" in extra:
        canonical = [f'[["weather",{{"city":"{city}"}}]]' for city in CITIES]
        assert {vote["answer"] for vote in extras(reply)["votes"]} <= set(canonical)


def test_streamed_tool_calls_of_a_strategy_can_be_gathered(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=asked("What is the weather in Paris?"),
        max_tokens=96,
        tools=[WEATHER],
        tool_choice="required",
        extra_body=strategy(),
    ) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [json.loads(call.function.arguments)["city"] in CITIES for call in calls] == [True]


def test_choices_are_distinct_answers_best_first(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=asked(),
        max_tokens=32,
        n=3,
        extra_body=strategy(samples=8) | {"include": ["candidates"]},
    )
    told = extras(reply)
    assert 1 <= len(reply.choices) <= 3
    assert [choice.index for choice in reply.choices] == list(range(len(reply.choices)))
    counts = [vote["count"] for vote in told["votes"]]
    assert counts == sorted(counts, reverse=True)
    answers = {candidate["text"]: candidate["answer"] for candidate in told["candidates"]}
    voted = [vote["answer"] for vote in told["votes"]][:3]
    assert [answers[choice.message.content or ""] for choice in reply.choices][: len(voted)] == voted


def test_candidates_account_for_every_token(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=24, extra_body=strategy("best_of_n") | {"include": ["candidates"]}
    )
    candidates = extras(reply)["candidates"]
    assert len(candidates) == 4
    assert reply.usage is not None
    assert sum(candidate["tokens"] for candidate in candidates) == reply.usage.completion_tokens
    assert text(reply) in [candidate["text"] for candidate in candidates]
    assert all(0 <= candidate["score"] <= 1 for candidate in candidates)


def test_progress_rides_on_chunks_that_add_nothing(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=asked(), max_tokens=16, stream=True, extra_body=strategy() | {"include": ["progress"]}
    ) as stream:
        chunks = list(stream)
    shown = [
        extras(chunk)["progress"] for chunk in chunks if "progress" in (chunk.model_extra or {}).get("outthink", {})
    ]
    assert shown[-1]["rounds"] == 1
    assert shown[-1]["finished"] == 4
    assert shown[-1]["tokens"] == extras(ending(chunks))["usage"]["policy"]["completion"]
    assert all(chunk.choices for chunk in chunks)


def test_reasoning_is_shown_only_on_request(client: openai.OpenAI) -> None:
    def reasoning(include: list[str]) -> str:
        extra = strategy() | {"include": include}
        with client.chat.completions.create(
            model=MODEL, messages=asked(), max_tokens=16, stream=True, extra_body=extra
        ) as stream:
            deltas = [chunk.choices[0].delta.model_extra or {} for chunk in stream]
        assert [d.get("reasoning") for d in deltas] == [d.get("reasoning_content") for d in deltas]
        return "".join(delta.get("reasoning") or "" for delta in deltas)

    assert "4 answers finished" in reasoning(["reasoning"])
    assert reasoning([]) == ""


def test_completions_are_vllms(client: openai.OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=8)
    assert reply.choices[0].text
    with client.completions.create(model=MODEL, prompt="One, two,", max_tokens=8, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream)


def test_responses_are_vllms(client: openai.OpenAI) -> None:
    reply = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=16)
    assert reply.output_text
    with client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=16, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_models_are_listed_each_with_every_preset(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert {f"{MODEL}@small", f"{MODEL}@self_consistency", f"{MODEL}@best_of_16"} <= set(names)
    assert len(names) == len(set(names))
    assert all(client.models.retrieve(name).id == name for name in names)


def test_request_id_is_in_the_reply_and_can_be_chosen(client: openai.OpenAI) -> None:
    chosen = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=asked(),
        max_tokens=4,
        extra_body=strategy(samples=2),
        extra_headers={"X-Request-Id": "chosen-by-me.7"},
    )
    assert chosen.request_id == "chosen-by-me.7"
    assert text(chosen.parse())
    given = [
        client.chat.completions.with_raw_response.create(model=MODEL, messages=asked(), max_tokens=4).request_id
        for _ in range(2)
    ]
    assert all(given)
    assert given[0] != given[1]
