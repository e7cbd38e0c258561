"""Chat completions with a strategy, over HTTP and a scripted engine."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import httpx
import pytest

from service.engines.scripted import Reply, ScriptedEngine
from service.settings import Settings
from strategies.errors import EngineUnavailable
from strategies.types import Chat
from tests.conftest import chat, outthink, shared_workers

PATH = "/v1/chat/completions"
ANSWERS = ("\\boxed{42}", "The answer is 41.", "It is 42", "no idea", "\\boxed{\\frac{84}{2}}", "\\boxed{7}")


def six(prompt: str, branch: int) -> Reply | str:
    """Three right answers in three spellings, two wrong ones and an abstention."""
    return ANSWERS[branch % len(ANSWERS)]


def events(body: str) -> list[Any]:
    """The JSON of a stream's data lines."""
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]


async def test_majority_wins_across_spellings() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        reply = (await client.post(PATH, json=chat(strategy={"type": "self_consistency", "samples": 6}))).json()
    assert reply["choices"][0]["message"]["content"] == ANSWERS[0]
    assert reply["choices"][0]["finish_reason"] == "stop"
    votes = reply["outthink"]["votes"]
    assert [(vote["answer"], vote["count"]) for vote in votes] == [("42", 3), ("41", 1), ("7", 1)]


async def test_usage_counts_every_token_and_the_prompt_once() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        reply = (await client.post(PATH, json=chat(strategy={"type": "self_consistency", "samples": 6}))).json()
    usage, spent = reply["usage"], reply["outthink"]["usage"]
    assert usage["completion_tokens"] == engine.generated == spent["policy"]["completion"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert spent["policy"]["prompt"] == 6 * usage["prompt_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == engine.generated - 1
    assert spent["policy"]["requests"] == 1


async def test_n_choices_are_the_best_distinct_answers() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 6}, n=4)
        reply = (await client.post(PATH, json=body)).json()
    contents = [choice["message"]["content"] for choice in reply["choices"]]
    assert contents == [ANSWERS[0], ANSWERS[1], ANSWERS[5], ANSWERS[3]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]


async def test_best_of_n_returns_what_the_judge_likes_best() -> None:
    def graded(prompt: str, branch: int) -> Reply | str:
        if "Grade an answer" not in prompt:
            return ANSWERS[branch]
        return Reply("3", labels={"1": -9.0, "2": -9.0, "3": -9.0, "4": -9.0, "5": 0.0 if "41" in prompt else -9.0})

    engine = ScriptedEngine(graded)
    async with outthink(engine) as client:
        body = chat(strategy={"type": "best_of_n", "samples": 4}, include=["candidates"])
        reply = (await client.post(PATH, json=body)).json()
    assert reply["choices"][0]["message"]["content"] == ANSWERS[1]
    assert reply["outthink"]["votes"][0]["answer"] == "42", "the plain majority stands beside the judge's choice"
    assert [c["score"] for c in reply["outthink"]["candidates"]] == pytest.approx([0.5, 1, 0.5, 0.5], abs=1e-3)
    assert len(engine.calls) == 2, "all samples in one request, all judgements in another"
    assert reply["outthink"]["usage"]["scorer"]["completion"] == 4


async def test_stream_ends_with_the_winner_usage_and_done() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        strategy = {"type": "self_consistency", "samples": 6}
        body = chat(strategy=strategy, stream=True, stream_options={"include_usage": True})
        reply = await client.post(PATH, json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    chunks = events(reply.text)
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == ANSWERS[0]
    finish = [c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
    assert len(finish) == 1
    assert finish[0]["outthink"]["votes"][0]["count"] == 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 6
    assert reply.text.endswith("data: [DONE]\n\n")
    assert reply.text.startswith(": {"), "progress is a comment, which every client skips"
    assert "\nid:" not in reply.text
    assert "event:" not in reply.text


async def test_streamed_and_whole_replies_agree() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 6}, seed=1)
        whole = (await client.post(PATH, json=body)).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = events((await client.post(PATH, json=body | options)).text)
    assert chunks[-1]["usage"] == whole["usage"]
    streamed = next(c["outthink"] for c in chunks if "outthink" in c)
    assert {**streamed, "seconds": 0} == {**whole["outthink"], "seconds": 0}


async def test_chain_of_thought_streams_tokens_as_decoded() -> None:
    released = asyncio.Semaphore(3)

    async def one_at_a_time() -> None:
        await released.acquire()

    engine = ScriptedEngine(lambda prompt, branch: "one two three four", pause=one_at_a_time)
    async with (
        outthink(engine) as client,
        client.stream("POST", PATH, json=chat(strategy="chain_of_thought", stream=True)) as reply,
    ):
        lines = reply.aiter_lines()
        seen = ""
        while seen != "one two three":
            line = await anext(lines)
            if line.startswith("data: {"):
                seen += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        released.release()  # only now may the fourth token be made
        rest = [line async for line in lines]
    assert any(" four" in line for line in rest)
    assert [line for line in rest if line][-1] == "data: [DONE]"


async def test_progress_in_chunks_never_has_empty_choices() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        body = chat(strategy="self_consistency", stream=True, include=["progress"])
        chunks = events((await client.post(PATH, json=body)).text)
    assert chunks[0]["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
    assert chunks[0]["outthink"]["progress"]["finished"] == 16


async def test_reasoning_shows_progress_to_people() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        body = chat(strategy="self_consistency", stream=True, include=["reasoning"])
        chunks = events((await client.post(PATH, json=body)).text)
    delta = chunks[0]["choices"][0]["delta"]
    assert delta["reasoning_content"] == delta["reasoning"] != ""


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_aborts_every_branch(stream: bool) -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def stuck() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with outthink(ScriptedEngine(six, pause=stuck)) as client:
        asking = asyncio.create_task(client.post(PATH, json=chat(strategy="self_consistency", stream=stream)))
        await waiting.wait()
        asking.cancel()
        async with asyncio.timeout(60):
            await closed.wait()
        assert "outthink_live_branches 0.0" in (await client.get("/metrics")).text


async def test_error_in_mid_stream_ends_without_done() -> None:
    spoken = asyncio.Event()

    async def after_the_first() -> None:
        if engine.generated:
            await spoken.wait()

    def dies(prompt: str, branch: int) -> Reply | str:
        return Reply("a b c", error=EngineUnavailable("it died", generated=True))

    engine = ScriptedEngine(dies, pause=after_the_first)
    async with (
        outthink(engine) as client,
        client.stream("POST", PATH, json=chat(strategy="chain_of_thought", stream=True)) as reply,
    ):
        spoken.set()
        text = "".join([part async for part in reply.aiter_text()])
    last = events(text)[-1]
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert "[DONE]" not in text
    assert events(text)[0]["choices"][0]["delta"]["content"] == "a"


async def test_error_before_the_first_byte_has_a_status() -> None:
    def dies(prompt: str, branch: int) -> Reply | str:
        return Reply("", error=EngineUnavailable("it is down", retry_after=9))

    async with outthink(ScriptedEngine(dies)) as client:
        for stream in (False, True):
            reply = await client.post(PATH, json=chat(strategy="self_consistency", stream=stream))
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "9"


async def test_a_failed_branch_is_reported_and_not_an_error() -> None:
    def third_fails(prompt: str, branch: int) -> Reply | str:
        return Reply("x", error=EngineUnavailable("it died", generated=True)) if branch == 2 else "\\boxed{5}"

    async with outthink(ScriptedEngine(third_fails)) as client:
        reply = (await client.post(PATH, json=chat(strategy={"type": "self_consistency", "samples": 4}))).json()
    assert reply["outthink"]["votes"][0]["count"] == 3
    assert reply["outthink"]["failed"] == {"branches": 1, "reasons": ["it died"]}


async def test_token_budget_stops_and_tells() -> None:
    engine = ScriptedEngine(lambda prompt, branch: "word " * 100)
    async with outthink(engine) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 4}, budget={"tokens": 100})
        reply = (await client.post(PATH, json=body)).json()
    assert reply["outthink"]["stopped_by"] == "tokens"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert 100 <= reply["usage"]["completion_tokens"] <= 100 + 4 * engine.interval
    assert engine.open_streams == 0


async def test_deadline_with_nothing_to_show_is_504_and_not_retried() -> None:
    never = asyncio.Event()

    async def stuck() -> None:
        await never.wait()

    async with outthink(ScriptedEngine(six, pause=stuck)) as client:
        body = chat(strategy="self_consistency", budget={"seconds": 0.1})
        reply = await client.post(PATH, json=body)
    assert reply.status_code == 504
    assert reply.headers["x-should-retry"] == "false"


async def test_the_callers_fields_reach_every_sample() -> None:
    engine = ScriptedEngine(six)
    fields: dict[str, Any] = {"top_p": 0.9, "stop": ["\n"], "top_k": 5, "chat_template_kwargs": {"x": 1}, "min_p": 0.1}
    async with outthink(engine) as client:
        body = chat(
            strategy="self_consistency", **fields, temperature=0.3, user="u", store=True, max_completion_tokens=9
        )
        await client.post(PATH, json=body | {"max_tokens": 99})
    [(sent, call)] = engine.calls
    assert sent.fields == {**fields, "temperature": 0.3, "max_tokens": 9}
    assert call.n == 16


async def test_same_seed_sends_the_same_seed_and_gives_the_same_answer() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        replies = [(await client.post(PATH, json=chat(strategy="self_consistency", seed=s))).json() for s in (1, 1, 2)]
    first, second, third = [call.seed for _, call in engine.calls]
    assert first == second
    assert first is not None
    assert third is not None
    assert abs(first - third) > 1024, "vLLM adds the number of the sample to the seed: near seeds would share samples"
    assert replies[0]["choices"] == replies[1]["choices"]


async def test_vote_over_tool_calls_returns_a_well_formed_one() -> None:
    def calls(prompt: str, branch: int) -> Reply | str:
        city = '{"city": "Rome"}' if branch else '{"city":"Oslo"}'
        arguments = city if branch != 2 else '{ "city" :"Rome" }'
        function = {"name": "weather", "arguments": arguments}
        return Reply("", "tool_calls", {"tool_calls": [{"index": 0, "id": f"c{branch}", "function": function}]})

    async with outthink(ScriptedEngine(calls)) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 3}, tools=[{"type": "function"}])
        choice = (await client.post(PATH, json=body)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    ]


async def test_vote_over_json_ignores_spelling() -> None:
    texts = ['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 3}']
    async with outthink(ScriptedEngine(lambda prompt, branch: texts[branch])) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 3}, response_format={"type": "json_object"})
        reply = (await client.post(PATH, json=body)).json()
    assert reply["outthink"]["votes"][0] == {"answer": '{"a":1,"b":2}', "count": 2, "weight": 2.0}


async def test_reasoning_is_kept_apart_from_the_answer() -> None:
    reply = Reply("\\boxed{3}", message={"reasoning": "first I thought \\boxed{9}"})
    async with outthink(ScriptedEngine(lambda prompt, branch: reply)) as client:
        body = (await client.post(PATH, json=chat(strategy={"type": "self_consistency", "samples": 2}))).json()
    message = body["choices"][0]["message"]
    assert body["outthink"]["votes"][0]["answer"] == "3"
    assert message["reasoning"] == message["reasoning_content"] == "first I thought \\boxed{9}"


async def test_dry_run_generates_nothing() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        strategy = {"type": "best_of_n", "samples": 3}
        bounded = (await client.post(PATH, json=chat(strategy=strategy, max_tokens=10, dry_run=True))).json()
        rest = (await client.post(PATH, json=chat("a b c", strategy=strategy, dry_run=True))).json()
    assert (bounded["rounds"], bounded["branches"], bounded["tokens"]) == (1, 3, 33)
    assert rest["max_tokens"] == engine.length - 4, "a missing max_tokens is the rest of the context"
    assert engine.calls == []


async def test_pattern_of_the_request_reads_the_answer() -> None:
    texts = ["RESULT=blue x", "RESULT=red y", "RESULT=blue z"]
    async with outthink(ScriptedEngine(lambda prompt, branch: texts[branch])) as client:
        body = chat(
            strategy={"type": "self_consistency", "samples": 3}, answer={"type": "text", "pattern": r"RESULT=(\w+)"}
        )
        reply = (await client.post(PATH, json=body)).json()
    assert reply["outthink"]["votes"][0] == {"answer": "blue", "count": 2, "weight": 2.0}


async def test_pattern_that_never_ends_is_told_and_nobody_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_workers(), "limit", 1.0)
    engine = ScriptedEngine(lambda prompt, branch: "a" * 40 + "!")
    async with outthink(engine) as client:
        body = chat(strategy={"type": "self_consistency", "samples": 2}, answer={"pattern": "(a|aa)+$"})
        slow = asyncio.create_task(client.post(PATH, json=body))
        healthy = await client.get("/health")
        reply = await slow
    assert healthy.status_code == 200
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "answer.pattern"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "nope"}, "strategy"),
    ({"strategy": {"type": "nope"}}, "strategy.type"),
    ({"strategy": {}}, "strategy.type"),
    ({"strategy": 7}, "strategy"),
    ({"strategy": {"type": "self_consistency", "samples": 0}}, "strategy.samples"),
    ({"strategy": {"type": "self_consistency", "samples": "8"}}, "strategy.samples"),
    ({"strategy": {"type": "self_consistency", "samples": True}}, "strategy.samples"),
    ({"strategy": {"type": "self_consistency", "samples": 300}}, "strategy.samples"),
    ({"strategy": {"type": "self_consistency", "votes": "all"}}, "strategy.votes"),
    ({"strategy": {"type": "self_consistency", "vote": "all"}}, "strategy.vote"),
    ({"strategy": {"type": "self_consistency", "scorer": "judge"}}, "strategy.scorer"),
    ({"strategy": {"type": "best_of_n", "scorer": "nobody"}}, "strategy.scorer"),
    ({"strategy": {"type": "best_of_n", "scorer": {"type": "nobody"}}}, "strategy.scorer.type"),
    ({"strategy": {"type": "best_of_n", "scorer": {"type": "judge", "x": 1}}}, "strategy.scorer.x"),
    ({"strategy": {"type": "best_of_n", "samples": 60, "scorer": "listwise_judge"}}, "strategy.samples"),
    ({"strategy": {"type": "chain_of_thought", "examples": [{"question": "q"}]}}, "strategy.examples[0]"),
    ({"strategy": {"type": "best_of_n", "samples": 2}, "n": 3}, "n"),
    ({"strategy": {"type": "beam_search", "beams": 6}}, "strategy.beams"),
    ({"strategy": {"type": "beam_search", "step": {"max_tokens": 0}}}, "strategy.step.max_tokens"),
    ({"strategy": {"type": "particle_filter", "particles": 300}}, "strategy.particles"),
    ({"strategy": {"type": "mcts", "value": "guess"}}, "strategy.value"),
    ({"strategy": "mcts", "tools": [{"type": "function"}]}, "tools"),
    ({"strategy": "beam_search", "presence_penalty": 1}, "presence_penalty"),
    ({"strategy": "mcts", "temperature": 0}, "temperature"),
    ({"strategy": "best_of_n", "temperature": 0}, "temperature"),
    ({"strategy": "best_of_n", "temperature": "hot"}, "temperature"),
    ({"strategy": "best_of_n", "temperature": 2.5}, "temperature"),
    ({"strategy": "best_of_n", "top_p": 0}, "top_p"),
    ({"strategy": "best_of_n", "max_tokens": 0}, "max_tokens"),
    ({"strategy": "best_of_n", "messages": []}, "messages"),
    ({"strategy": "best_of_n", "messages": [{"content": "x"}]}, "messages[0].role"),
    ({"strategy": "best_of_n", "messages": "hello"}, "messages"),
    ({"strategy": "best_of_n", "budget": {"tokens": 0}}, "budget.tokens"),
    ({"strategy": "best_of_n", "budget": {"token": 9}}, "budget.token"),
    ({"strategy": "best_of_n", "include": ["all"]}, "include[0]"),
    ({"strategy": "best_of_n", "answer": {"pattern": "(("}}, "answer.pattern"),
    ({"strategy": "best_of_n", "answer": {"pattern": "none"}}, "answer.pattern"),
    ({"strategy": "best_of_n", "answer": {"pattern": "(?:" * 200 + "(a)" + ")*" * 200}}, "answer.pattern"),
    ({"strategy": "best_of_n", "answer": {"type": "poem"}}, "answer.type"),
    ({"strategy": "best_of_n", "modalities": ["audio"]}, "modalities"),
    ({"model": 5}, "model"),
    ({"budget": {"tokens": 9}}, "budget"),
    ({"include": ["candidates"]}, "include"),
    ({"messages": []}, "messages"),
    ({"prediction": {}}, "prediction"),
]


STRANGE: dict[str, Any] = {
    "made_up": 3,
    "echo": True,
    "use_beam_search": True,
    "prompt_logprobs": 20,
    "logprob_token_ids": [1],
    "logits_processors": ["os.system"],
    "request_id": "somebody-else",
    "watermarking": True,
    "return_token_ids": True,
    "return_prompt_text": True,
    "guided_regex": "(a+)+",
    "best_of": 64,
    "stream_interval": 4096,
}


@pytest.mark.parametrize("strategy", ["chain_of_thought", "self_consistency", "beam_search"])
async def test_a_field_that_no_strategy_knows_never_reaches_the_engine(strategy: str) -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        for name, value in STRANGE.items():
            reply = await client.post(PATH, json=chat(strategy=strategy) | {name: value})
            error = reply.json()["error"]
            assert (reply.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")
        absent = await client.post(PATH, json=chat(strategy=strategy, max_tokens=9) | dict.fromkeys(STRANGE))
        assert absent.status_code == 200, "null is no value"
    assert all(not STRANGE.keys() & call.fields.keys() for _, call in engine.calls)
    assert all(not STRANGE.keys() & sent.fields.keys() for sent, _ in engine.calls if isinstance(sent, Chat))


KNOWN: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "min_tokens": 1,
    "ignore_eos": True,
    "repetition_penalty": 1.1,
    "length_penalty": 1.0,
    "stop_token_ids": [2],
    "include_stop_str_in_output": True,
    "bad_words": ["no"],
    "allowed_token_ids": [1, 2],
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "logit_bias": {"5": -1.5},
    "structured_outputs": {"regex": "a"},
    "chat_template": "x",
    "chat_template_kwargs": {"x": 1},
    "documents": [{"title": "t", "text": "x"}],
    "add_generation_prompt": True,
    "continue_final_message": False,
    "add_special_tokens": True,
    "truncate_prompt_tokens": 9,
    "truncation_side": "left",
    "mm_processor_kwargs": {},
    "reasoning_effort": "low",
    "thinking_token_budget": 5,
    "include_reasoning": False,
    "cache_salt": "salt",
    "return_tokens_as_token_ids": True,
    "logprobs": True,
    "top_logprobs": 2,
    "parallel_tool_calls": True,
    "tools": [{"type": "function"}],
    "tool_choice": "auto",
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repetition_detection": {"max_pattern_size": 9, "min_count": 3},
    "media_io_kwargs": {},
    "stop": ["x"],
}


async def test_every_known_field_reaches_the_samples_as_it_is() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        reply = await client.post(PATH, json=chat(strategy="self_consistency", **KNOWN))
    assert reply.status_code == 200
    [(sent, _)] = engine.calls
    assert KNOWN.items() <= sent.fields.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("truncate_prompt_tokens", "9"),
        ("truncate_prompt_tokens", -2),
        ("thinking_token_budget", 1.5),
        ("bad_words", ["a"] * 1025),
        ("stop", ["a"] * 1025),
        ("stop_token_ids", [1] * 1025),
        ("skip_special_tokens", "no"),
        ("documents", "x"),
        ("cache_salt", ""),
    ],
)
async def test_a_known_field_of_another_type_or_size_is_named(name: str, value: Any) -> None:
    async with outthink(ScriptedEngine(six)) as client:
        reply = await client.post(PATH, json=chat(strategy="self_consistency") | {name: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


async def test_bad_input_names_the_field_and_never_reaches_the_engine() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        for fields, param in BAD:
            reply = await client.post(PATH, json=chat() | fields)
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, param), (fields, error)
            assert error["type"] == "invalid_request_error"
            assert error["message"]
    assert engine.calls == []


@pytest.mark.parametrize("raw", [b"{bad", b"[1]", b"", b'"x"', b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_400(raw: bytes) -> None:
    async with outthink(ScriptedEngine(six)) as client:
        reply = await client.post(PATH, content=raw)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


async def test_a_large_body_is_413_announced_or_not() -> None:
    async def parts() -> Any:
        for _ in count():
            yield b" " * 100_000

    async with outthink(ScriptedEngine(six), settings=Settings(max_body_bytes=1_000_000)) as client:
        announced = await client.post(PATH, content=b" " * 1_000_001)
        assert announced.status_code == 413
        try:
            streamed = await client.post(PATH, content=parts())
        except httpx.TransportError:
            return  # the server may close while the client still sends
        assert streamed.status_code == 413


async def test_unknown_model_and_preset_are_404() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        for name in ("gpt-4", "smollm2@nope", "nope@sc"):
            reply = await client.post(PATH, json=chat() | {"model": name})
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_preset_replaces_temperature_zero_and_says_so() -> None:
    engine = ScriptedEngine(six)
    async with outthink(engine) as client:
        reply = (await client.post(PATH, json=chat(temperature=0) | {"model": "smollm2@self_consistency"})).json()
    assert reply["outthink"]["strategy"]["temperature"] == 0.7
    assert reply["model"] == "smollm2"
    assert engine.calls[0][0].fields["temperature"] == 0.7


async def test_presets_of_the_settings_and_the_default_strategy() -> None:
    table = {"quick": {"strategy": {"type": "self_consistency", "samples": 2}, "temperature": 0.5}}
    settings = Settings(presets=table, default_strategy="quick")
    async with outthink(ScriptedEngine(six), settings=settings) as client:
        named = (await client.post(PATH, json=chat() | {"model": "smollm2@quick"})).json()
        default = (await client.post(PATH, json=chat())).json()
        own = (await client.post(PATH, json=chat(strategy={"type": "self_consistency", "samples": 3}))).json()
    assert named["outthink"]["strategy"] == default["outthink"]["strategy"]
    assert named["outthink"]["strategy"]["temperature"] == 0.5
    assert own["outthink"]["strategy"]["samples"] == 3


async def test_more_branches_than_there_are_wait_and_more_requests_than_may_wait_are_429() -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def held() -> None:
        begun.set()
        await gate.wait()

    settings = Settings(max_branches=4, max_queue=1)
    body = chat(strategy={"type": "self_consistency", "samples": 4})
    async with outthink(ScriptedEngine(six, pause=held), settings=settings) as client:
        first = asyncio.create_task(client.post(PATH, json=body))
        await begun.wait()
        second = asyncio.create_task(client.post(PATH, json=body))
        while "outthink_queued_requests 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        third = await client.post(PATH, json=body)
        gate.set()
        assert third.status_code == 429
        assert third.headers["retry-after"].isdigit()
        assert [(await task).status_code for task in (first, second)] == [200, 200]


@pytest.mark.parametrize("strategy", ["beam_search", "particle_filter", "mcts"])
async def test_searches_return_the_tree_they_grew(strategy: str) -> None:
    def steps(prompt: str, branch: int) -> Reply | str:
        if "Is the solution correct" in prompt:
            return Reply("Yes", labels={"Yes": -0.1, "No": -2.0 - prompt.count("step")})
        return "\\boxed{5}" if prompt.count("\n\n") >= 3 else f"step {branch}\n\nand so on"

    engine = ScriptedEngine(steps)
    async with outthink(engine) as client:
        body = chat(strategy=strategy, include=["candidates"], max_tokens=200, seed=4)
        reply = (await client.post(PATH, json=body)).json()
    tree = {node["id"]: node for node in reply["outthink"]["candidates"]}
    deep = [node for node in tree.values() if node["depth"] >= 3]
    assert deep
    assert all(len(node["scores"]) == node["depth"] for node in tree.values())
    assert all(tree[node["parent"]]["depth"] == node["depth"] - 1 for node in deep)
    content = reply["choices"][0]["message"]["content"]
    assert content.startswith("step")
    assert content.endswith("\\boxed{5}")
    assert {node["finish_reason"] for node in tree.values()} == {"step", "stop"}
    assert reply["outthink"]["rounds"] > 3
    spent = reply["outthink"]["usage"]
    assert spent["policy"]["completion"] + spent["scorer"]["completion"] == engine.generated


async def test_searches_read_text_only() -> None:
    async with outthink(ScriptedEngine(six)) as client:
        parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
        body = {"model": "smollm2", "messages": [{"role": "user", "content": parts}], "strategy": "mcts"}
        error = (await client.post(PATH, json=body)).json()["error"]
    assert error["param"] == "messages[0].content"


async def test_a_pattern_that_explodes_is_refused_by_name() -> None:
    """Its compilation doubles in time and memory with every level; also in a dry run, which costs nothing else."""
    nested = "(" + "(?:" * 60 + "a|" + ")+" * 60 + ")"
    async with outthink(ScriptedEngine(lambda prompt, branch: "7")) as client:
        for dry_run in (True, False):
            body = chat(strategy="self_consistency", answer={"pattern": nested}, dry_run=dry_run)
            reply = await client.post(PATH, json=body)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "answer.pattern")
            assert "to compile; simplify it" in reply.json()["error"]["message"]
