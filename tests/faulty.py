"""A vLLM of words behind a bare socket, which can be broken at any byte of any reply, and counts what it sends.

What it says comes from the scripted engine; how it says it is vLLM's. A `Fault` says which requests break, and how.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from service.engines.scripted import Script, ScriptedEngine
from strategies.types import Batch, Call, Chat, Delta
from tests.upstream import DONE, MODEL, event

On = Literal["policy", "scorer", "tokenize", "detokenize"]
End = Literal["done", "reset", "close", "hang", "drip"]
PATHS: dict[str, On] = {"/tokenize": "tokenize", "/detokenize": "detokenize"}
RESET = struct.pack("ii", 1, 0)  # linger for no time at all: closing sends RST


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a reply's body and the tokens that they tell of; `bad` ones are the fault, and all behind them."""

    raw: bytes
    tokens: int = 0
    bad: bool = False


Pieces = list[Piece]


@dataclass(frozen=True, slots=True)
class Fault:
    """`instead`: a whole reply, head included, in place of the right one; else the pieces are edited, and then the
    reply ends as it should, or the connection is reset, closed, kept in silence, or given a byte now and then."""

    on: On = "policy"
    instead: bytes | None = None
    edit: Callable[[Pieces], Pieces] = lambda pieces: pieces
    end: End = "done"
    head: bool = True


@dataclass
class FaultyVllm:
    """`hits` says of the session and the number of a request (from 0, among those that the fault is on) whether it
    breaks. `sent` counts the tokens that were told before a fault, by session; `open` the requests in the making,
    and `idle` that there is none."""

    script: Script
    fault: Fault | None = None
    hits: Callable[[str, int], bool] = lambda session, number: True
    sent: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    silent: asyncio.Event = field(default_factory=asyncio.Event)  # a fault has begun to keep its client waiting

    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine = ScriptedEngine(self.script, interval=4)

    def hang_up(self) -> None:
        """Close all connections, as a process that dies does."""
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; false when the connection is no longer of use."""
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in rest)}
        body = orjson.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        path, session = line.split(" ")[1], headers.get("x-session-id", "")
        self.open += 1
        self.idle.clear()
        try:
            return await self.replied(path, body, session, Wire(reader, writer))
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()

    async def replied(self, path: str, body: dict[str, Any], session: str, wire: Wire) -> bool:
        fault = self.fault if self.broken(path, body, session) else None
        if fault and fault.instead is not None:
            await wire.write(fault.instead)
            return False
        try:
            pieces = await self.reply(path, body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            await wire.write(refusal(str(error)))
            return True
        if fault is None or fault.head:
            await wire.begin("text/event-stream" if body.get("stream") else "application/json")
        for piece in fault.edit(pieces) if fault else pieces:
            await wire.chunk(piece.raw)
            if piece.bad:
                session = "behind a fault"
            self.sent[session] += piece.tokens
        if fault and fault.end == "hang":
            self.silent.set()
        return await wire.end(fault.end if fault else "done")

    def broken(self, path: str, body: dict[str, Any], session: str) -> bool:
        if self.fault is None or not session or part(path, body) != self.fault.on:
            return False
        self.seen[session] += 1
        return self.hits(session, self.seen[session] - 1)

    async def reply(self, path: str, body: dict[str, Any]) -> Pieces:
        """The right reply, in pieces."""
        if not body:
            return whole({"object": "list", "data": [MODEL]})  # all that is asked without one, and more than some want
        if path == "/tokenize":
            ids = self.ids(body)
            return whole({"tokens": ids, "count": len(ids), "max_model_len": MODEL["max_model_len"]})
        if path == "/detokenize":
            return whole({"prompt": self.engine.text(body["tokens"])})
        if not 0 < body.get("n", 1) <= 64:
            raise ValueError("n is too large")
        batches = [batch async for batch in self.batches(path, body)]
        if body.get("stream"):
            return [*streamed(batches, body), Piece(DONE)]
        return unstreamed(batches, body)

    def ids(self, body: dict[str, Any]) -> Sequence[int]:
        if "prompt" in body:
            return self.engine.ids(body["prompt"])
        return self.engine.ids("\n".join(f"{message['role']}: {message['content']}" for message in body["messages"]))

    def batches(self, path: str, body: dict[str, Any]) -> AsyncGenerator[Batch]:
        stop = body.get("stop") or ()
        call = Call(
            n=body.get("n", 1),
            max_tokens=body.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=body.get("top_logprobs", body.get("logprobs")),
            label_ids=tuple(body.get("logprob_token_ids", ())),
            each_token=body.get("stream_interval") == 1,
        )
        if path == "/v1/chat/completions":
            return self.engine.sample(Chat(tuple(body["messages"])), call)
        return self.engine.extend([tuple(ids) for ids in body["prompt"]], call)


@dataclass(frozen=True, slots=True)
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def begin(self, kind: str) -> None:
        await self.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind.encode())

    async def chunk(self, raw: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(raw), raw))

    async def write(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def end(self, how: End) -> bool:
        if how == "done":
            await self.write(b"0\r\n\r\n")
        elif how == "reset":
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()
        elif how == "hang":
            await self.reader.read()  # until the client leaves
        elif how == "drip":
            while True:  # until writing fails
                await self.chunk(b".")
                await asyncio.sleep(0.01)
        return how == "done"


def refusal(message: str) -> bytes:
    """What vLLM says of a request that makes no sense."""
    body = json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}).encode()
    return b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def part(path: str, body: dict[str, Any]) -> On | None:
    if path.startswith("/v1/") and body:
        return "scorer" if "logprob_token_ids" in body else "policy"
    return PATHS.get(path)


def whole(body: dict[str, Any], tokens: int = 0) -> Pieces:
    """A reply of JSON, in two halves."""
    raw = json.dumps(body).encode()
    return [Piece(raw[: len(raw) // 2]), Piece(raw[len(raw) // 2 :], tokens)]


def streamed(batches: Sequence[Batch], body: dict[str, Any]) -> Pieces:
    """An event of every branch for every step of the engine, each with the branch's tokens so far."""
    prompt = next(batch.prompt or 0 for batch in batches) // body.get("n", 1)
    totals: Counter[int] = Counter()
    pieces = []
    for delta in (delta for batch in batches for delta in batch.deltas):
        usage = {"prompt_tokens": prompt, "completion_tokens": delta.total, "total_tokens": prompt + delta.total}
        choice = chat_choice(delta) if "messages" in body else text_choice(delta)
        pieces.append(Piece(event(choices=[choice], usage=usage), delta.total - totals[delta.index]))
        totals[delta.index] = delta.total
    return pieces


def chat_choice(delta: Delta) -> dict[str, Any]:
    logprobs = {"content": delta.logprobs} if delta.logprobs else None
    told = {"index": delta.index, "delta": {"content": delta.text}, "logprobs": logprobs}
    return told | {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}


def text_choice(delta: Delta) -> dict[str, Any]:
    tops = [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in delta.logprobs]
    logprobs = {
        "tokens": [entry["token"] for entry in delta.logprobs],
        "token_logprobs": [entry["logprob"] for entry in delta.logprobs],
        "top_logprobs": tops,
    }
    told = {"index": delta.index, "text": delta.text, "logprobs": logprobs if delta.logprobs else None}
    return told | {"token_ids": delta.ids, "finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}


def unstreamed(batches: Sequence[Batch], body: dict[str, Any]) -> Pieces:
    """The same as one object, for pass-through."""
    deltas = [delta for batch in batches for delta in batch.deltas]
    message = {"role": "assistant", "content": "".join(delta.text for delta in deltas)}
    usage = {"prompt_tokens": batches[0].prompt, "completion_tokens": deltas[-1].total}
    choice = {"index": 0, "message": message, "finish_reason": deltas[-1].finish_reason}
    return whole({"object": "chat.completion", "choices": [choice], "usage": usage}, deltas[-1].total)
