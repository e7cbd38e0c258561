"""Every fault of an engine, under every strategy, streamed or not: an answer or a proper error, soon, truly counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from service.answers.equality import AnswerReader
from service.engines.scripted import Reply, ScriptedEngine
from service.engines.vllm import client as vllm_client
from service.settings import Settings
from strategies import STRATEGIES
from tests.conftest import chat, outthink
from tests.faulty import End, Fault, FaultyVllm, On, Piece, Pieces
from tests.strategies.support import grown
from tests.strategies.test_invariants import number, policy
from tests.upstream import DONE, ERROR, event

PATH = "/v1/chat/completions"
SILENCE = 0.3  # seconds: the time-outs where the engine is silent
PATIENCE = 600.0  # those where it is not, or where nobody waits for them
SECONDS = 120.0  # for things that take less than one; only a failing test waits that long
STEPS = {"max_steps": 3, "step": {"max_tokens": 12}}
CASES: dict[str, Any] = {
    "plain": None,
    "chain_of_thought": {"type": "chain_of_thought"},
    "self_consistency": {"type": "self_consistency", "samples": 3},
    "deepconf": {"type": "self_consistency", "samples": 4, "vote": "deepconf", "warmup": 2},
    "weighted": {"type": "self_consistency", "samples": 3, "vote": "weighted", "scorer": "self_certainty"},
    "best_of_n": {"type": "best_of_n", "samples": 3},
    "listwise": {"type": "best_of_n", "samples": 3, "scorer": "listwise_judge"},
    "beam_search": {"type": "beam_search", "beams": 2, "width": 2, **STEPS},
    "particle_filter": {"type": "particle_filter", "particles": 2, **STEPS},
    "mcts": {"type": "mcts", "iterations": 2, "width": 2, "wave": 2, **STEPS},
}
PARTS: dict[On, set[str]] = {
    "policy": set(CASES),
    "scorer": {"best_of_n", "listwise", "beam_search", "particle_filter", "mcts"},
    "tokenize": {"best_of_n", "listwise", "beam_search", "particle_filter", "mcts"},
    "detokenize": {"beam_search", "particle_filter", "mcts"},
}


def said(prompt: str, index: int) -> Reply | str:
    """Steps and an answer, and verdicts for every kind of judge."""
    for asks, labels in (("the grade alone", "15"), ("its letter alone", "ABC")):
        if asks in prompt:
            return Reply(labels[0], labels={label: -number(prompt + label) / 99 for label in labels})
    if "Reply Yes or No." in prompt:
        return Reply("Yes", labels={"Yes": -0.1, "No": -number(prompt) / 99})
    return policy(prompt if grown(prompt) else prompt + "6 * 7?", index)


# The faults


def status(code: int, body: bytes = b'{"error": {"message": "boom", "code": 500}}') -> bytes:
    return b"HTTP/1.1 %d Oh\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (code, len(body)) + body


def until(at: int, *bad: bytes) -> Callable[[Pieces], Pieces]:
    """Only so many pieces, counted from the end when negative, and then what should not be."""
    return lambda pieces: [*pieces[:at], *(Piece(raw, bad=True) for raw in bad)]


def instead(at: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Pieces], Pieces]:
    """The event at this place (the last, where there are fewer) changed, and the rest as it should be."""

    def edit(pieces: Pieces) -> Pieces:
        events = [i for i, piece in enumerate(pieces) if piece.raw.startswith(b"data: {")]
        if not events:
            return [Piece(b'{"oops', bad=True)]
        place = events[min(at, len(events) - 1)]
        body = json.loads(pieces[place].raw[6:])
        change(body)
        return [*pieces[:place], Piece(event(**body), pieces[place].tokens, bad=True), *pieces[place + 1 :]]

    return edit


def choice(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["choices"][0].update(fields)


def usage(value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["usage"].update(completion_tokens=value)


def without(index: int) -> Callable[[Pieces], Pieces]:
    """Nothing of this branch."""
    return lambda pieces: [piece for piece in pieces if b'"index": %d' % index not in piece.raw]


PLACES = {"after the head": 0, "after an event": 1, "after three": 3, "before the last": -2, "after the last": -1}
ENDS: tuple[End, ...] = ("done", "close", "reset")
ASIDE: tuple[tuple[str, bytes | None, End], ...] = (
    ("status 500", status(500), "done"),
    ("status 400", status(400), "done"),
    ("an object of nothing", status(200, b"{}"), "done"),
    ("words for numbers", status(200, b'{"tokens": ["a"], "max_model_len": 9, "prompt": 5}'), "done"),
    ("half", None, "done"),
    ("a reset", None, "reset"),
    ("silence", None, "hang"),
)
FAULTS: dict[str, Fault] = {
    **{f"status {code}": Fault(instead=status(code)) for code in (500, 502, 503, 504, 429, 404, 400, 418, 301)},
    "an empty 200": Fault(instead=status(200, b"")),
    "a page": Fault(instead=status(200, b"<html>Welcome to the proxy</html>")),
    "a list": Fault(instead=status(200, b"[]")),
    "no HTTP": Fault(instead=b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "a body of another length": Fault(instead=status(200, b"{}").replace(b"length: 2", b"length: 9")),
    "reset before the head": Fault(end="reset", head=False, edit=until(0)),
    "closed before the head": Fault(end="close", head=False, edit=until(0)),
    **{f"{end} {name}": Fault(end=end, edit=until(at)) for name, at in PLACES.items() for end in ENDS},
    **{f"half an event, {end}": Fault(end=end, edit=until(1, b'data: {"choi')) for end in ENDS},
    **{f"silence {name}": Fault(end="hang", edit=until(at)) for name, at in [*PLACES.items()][:4]},
    "silence before the head": Fault(end="hang", head=False, edit=until(0)),
    "half JSON": Fault(edit=until(1, b"data: {oops\n\n")),
    "a page in the stream": Fault(edit=until(1, b"data: <html>\n\n", DONE)),
    "a list in the stream": Fault(edit=until(1, b"data: [1, 2]\n\n", DONE)),
    "no text": Fault(edit=until(1, b"data: \xff\xfe\n\n", DONE)),
    "choices that are none": Fault(edit=until(1, event(choices=5), DONE)),
    "a choice that is none": Fault(edit=until(1, event(choices=[5]), DONE)),
    "an error, then done": Fault(edit=until(2, ERROR, DONE)),
    "an error of words": Fault(edit=until(2, event(error="boom"), DONE)),
    "a refusal in the stream": Fault(edit=until(2, event(error={"message": "no", "code": 400}), DONE)),
    "too few choices": Fault(edit=without(0)),
    **{f"index {index!r}": Fault(edit=instead(1, choice(index=index))) for index in (9, -1, "0", None, True, 0.0)},
    "the same end again": Fault(edit=lambda pieces: [*pieces[:-1], Piece(pieces[-2].raw, bad=True), pieces[-1]]),
    "no ids": Fault(edit=instead(1, choice(token_ids=None))),
    "ids that are words": Fault(edit=instead(1, choice(token_ids=["a"]))),
    "too many ids": Fault(edit=instead(1, choice(token_ids=[1] * 99))),
    **{f"{total!r} tokens": Fault(edit=instead(1, usage(total))) for total in (-1, "many", None, 1.5)},
    "fewer tokens than before": Fault(edit=instead(99, usage(0))),
    "no usage": Fault(edit=instead(1, lambda body: body.pop("usage"))),
    "a message that is a number": Fault(edit=instead(1, choice(delta={"content": 7}, text=7))),
    "a delta that is a list": Fault(edit=instead(1, choice(delta=[], text=[1]))),
    "tool calls that are none": Fault(edit=instead(1, choice(delta={"tool_calls": [7]}, text=7))),
    "a tool's arguments that are none": Fault(
        edit=instead(1, choice(delta={"tool_calls": [{"index": 0, "function": {"arguments": 7}}]}, text=7))
    ),
    "a reason that is a number": Fault(edit=instead(1, choice(finish_reason=7))),
    "logprobs that are none": Fault(edit=instead(1, choice(logprobs=7))),
    "logprobs of nothing": Fault(edit=instead(1, choice(logprobs={"content": [{"token": "a"}]}))),
    **{f"scorer: status {code}": Fault("scorer", status(code)) for code in (500, 503, 404, 400)},
    **{f"scorer: {end} after an event": Fault("scorer", end=end, edit=until(1)) for end in ENDS},
    "scorer: silence": Fault("scorer", end="hang", edit=until(0)),
    "scorer: garbage": Fault("scorer", edit=until(0, b"data: {oops\n\n")),
    "scorer: no logprobs": Fault("scorer", edit=instead(0, choice(logprobs=None))),
    "scorer: logprobs of words": Fault(
        "scorer", edit=instead(0, choice(logprobs={"tokens": ["a"], "token_logprobs": ["b"], "top_logprobs": [{}]}))
    ),
    **{
        f"{on}: {name}": Fault(on, answer, until(1), end)
        for on in ("tokenize", "detokenize")
        for name, answer, end in ASIDE
    },
}


def always(number: int) -> bool:
    return True


HITS: dict[str, Callable[[int], bool]] = {"always": always, "later": lambda number: number > 0}


@asynccontextmanager
async def behind(fault: Fault, patience: float = PATIENCE) -> AsyncIterator[tuple[httpx.AsyncClient, FaultyVllm]]:
    """The service before a faulty vLLM; afterwards nothing of either is left."""
    engine = FaultyVllm(said, fault, lambda session, number: HITS.get(session.split("-")[0], always)(number))
    before = asyncio.all_tasks()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    port = port_of(server)
    limits: dict[str, Any] = {"retries": 1, "between_bytes_seconds": patience, "first_byte_seconds": patience}
    async with server, outthink(settings=Settings(engine_url=f"http://127.0.0.1:{port}", **limits)) as client:
        yield client, engine
        async with asyncio.timeout(SECONDS):
            await engine.idle.wait()  # it notices a moment later that a socket was closed
        metrics = (await client.get("/metrics")).text
        assert "outthink_live_branches 0.0" in metrics
        assert "outthink_queued_requests 0.0" in metrics
    async with asyncio.timeout(SECONDS):
        while left := asyncio.all_tasks() - before:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(left)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New tries without a pause."""
    monkeypatch.setattr(vllm_client, "PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_an_answer_or_a_proper_error(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """With every strategy that it can befall; once from the start, and once after a first request that went well."""
    fault = FAULTS[name]
    befallen = PARTS["detokenize" if name.endswith(" ids") else fault.on]  # only searches look at the ids
    patience = SILENCE if fault.end == "hang" else PATIENCE
    async with behind(fault, patience) as (client, engine), asyncio.timeout(SECONDS):
        asked = [asks(client, engine, case, "always", stream) for case in befallen for stream in (False, True)]
        later = [asks(client, engine, case, "later", False) for case in befallen & PARTS["tokenize"]]
        await asyncio.gather(*asked, *later)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("on", PARTS)
async def test_who_leaves_in_the_middle_of_anything_takes_it_along(on: On, stream: bool) -> None:
    """In the middle of sampling, of scoring, of a tokenizer's answer: the engine's part is closed at once."""
    silent = Fault(on, end="hang", edit=until(3 if on == "policy" else 0))
    async with behind(silent) as (client, engine):
        for case in PARTS[on] - {"plain"}:
            body = chat(strategy=CASES[case], stream=stream)
            asking = asyncio.create_task(client.post(PATH, json=body, headers={"X-Request-Id": f"always-{case}"}))
            async with asyncio.timeout(SECONDS):
                await engine.silent.wait()
            asking.cancel()
            async with asyncio.timeout(SECONDS):
                await engine.idle.wait()
            engine.silent.clear()  # only now: others of the same request may have fallen silent behind the first
        metrics = (await client.get("/metrics")).text
    if on == "policy":
        assert 'fate="cancelled",role="policy",strategy="chain_of_thought"} 3.0' in metrics
    assert 'status="499"' in metrics


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_who_leaves_a_vote_stops_it(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    reading, stopped = asyncio.Event(), asyncio.Event()

    async def for_ever(*_: object) -> None:
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(AnswerReader, "read", for_ever)
    async with behind(Fault()) as (client, _):
        asking = asyncio.create_task(client.post(PATH, json=chat(strategy=CASES["self_consistency"], stream=stream)))
        await reading.wait()
        asking.cancel()
        async with asyncio.timeout(SECONDS):
            await stopped.wait()


async def test_an_engine_that_is_silent_from_the_start_ends_with_the_seconds() -> None:
    async with behind(Fault(edit=until(0), end="hang", head=False)) as (client, _):
        asked = [
            client.post(PATH, json=chat(strategy=strategy, stream=stream, budget={"seconds": 0.3}))
            for strategy in CASES.values()
            if strategy
            for stream in (False, True)
        ]
        async with asyncio.timeout(SECONDS):
            replies = await asyncio.gather(*asked)
    assert {reply.status_code for reply in replies} == {504}


@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_seconds_hold_while_the_length_of_the_context_is_asked_for(dry_run: bool) -> None:
    class Silent(ScriptedEngine):
        async def context(self, model: str | None = None) -> int:
            await asyncio.Event().wait()
            return 0

    async with outthink(Silent(said)) as client, asyncio.timeout(SECONDS):
        body = chat(strategy="self_consistency", dry_run=dry_run, budget={"seconds": 0.3})
        reply = await client.post(PATH, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_slow_drip_ends_with_the_seconds() -> None:
    """Bytes keep coming, so that no time-out of the engine's fires, but no event is ever whole."""
    async with behind(Fault(edit=until(0), end="drip")) as (client, _):
        asked = [
            client.post(PATH, json=chat(strategy=strategy, stream=stream, budget={"seconds": 0.3}))
            for strategy in CASES.values()
            if strategy
            for stream in (False, True)
        ]
        async with asyncio.timeout(SECONDS):
            replies = await asyncio.gather(*asked)
    assert {reply.status_code for reply in replies} == {504}
    assert {reply.headers["x-should-retry"] for reply in replies} == {"false"}


@pytest.mark.usefixtures("quick")
async def test_an_engine_that_is_gone_is_503_and_one_that_is_back_is_found() -> None:
    engine = FaultyVllm(said)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    port = port_of(server)
    async with outthink(settings=Settings(engine_url=f"http://127.0.0.1:{port}", retries=1)) as client:

        async def every_status() -> set[int]:
            bodies = [chat(strategy=case, stream=stream) for case in CASES.values() for stream in (False, True)]
            replies = await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))
            assert all(reply.status_code == 200 or proper(reply.json()) for reply in replies)
            return {reply.status_code for reply in replies}

        assert await every_status() == {200}
        server.close()
        engine.hang_up()
        assert await every_status() == {503}
        async with await asyncio.start_server(engine.serve, "127.0.0.1", port):
            assert await every_status() == {200}


async def asks(client: httpx.AsyncClient, engine: FaultyVllm, case: str, mode: str, stream: bool) -> None:
    """Ask once and check what comes."""
    session = f"{mode}-{case}-{stream}"
    body = chat(strategy=CASES[case], stream=stream, seed=3) if CASES[case] else chat(stream=stream)
    options = {"stream_options": {"include_usage": True}} if stream else {}
    reply = await client.post(PATH, json=body | options, headers={"X-Request-Id": session})
    if reply.status_code != 200:
        assert reply.status_code in (400, 404, 418, 502, 503), reply.text
        proper(reply.json())
        assert reply.status_code != 503 or 1 <= int(reply.headers["retry-after"]) <= 120
        return
    if CASES[case] is None:
        assert not stream or reply.text.endswith("data: [DONE]\n\n") or proper(json.loads(last(reply.text)))
        return
    told = spoken(reply.text) if stream else reply.json()
    if told is None:
        return
    spent = told["outthink"]["usage"]
    reported = spent["policy"]["completion"] + spent["scorer"]["completion"]
    if engine.fault and engine.fault.end in ("reset", "hang"):
        assert reported <= engine.sent[session], "what was on its way, or late, may be lost"
    else:
        assert reported == engine.sent[session]
    assert told["usage"]["completion_tokens"] == spent["policy"]["completion"]
    assert told["outthink"]["stopped_by"] == "complete" or case == "deepconf", "the warm-up may agree"


def proper(body: dict[str, Any]) -> bool:
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert isinstance(body["error"]["code"], str | None)
    return True


def last(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2].removeprefix("data: ")


def spoken(text: str) -> dict[str, Any] | None:
    """What the last chunks of a stream say together; None when it ends in an error, as it must without `[DONE]`."""
    lines = [line for line in text.split("\n") if line]
    assert all(line.startswith(("data: ", ": {")) for line in lines), lines
    if lines[-1] != "data: [DONE]":
        proper(json.loads(lines[-1][6:]))
        return None
    chunks = [json.loads(line[6:]) for line in lines[:-1] if line.startswith("data: ")]
    told: dict[str, Any] = {}
    for chunk in chunks:
        told |= {key: chunk[key] for key in ("usage", "outthink") if key in chunk}
    return told


def test_every_strategy_is_among_the_cases() -> None:
    assert {case["type"] for case in CASES.values() if case} == set(STRATEGIES)
