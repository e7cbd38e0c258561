"""A server that speaks vLLM's streaming API and emits as fast as it can, so that the service is the bottleneck.

    python -m benchmarks.upstream PORT

Events look like vLLM's, `stream_interval` tokens each; they are made once and sent again and again, in writes of up to
64 KiB, by a bare asyncio protocol: it must cost less than what it measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

TOKENS = 4096
"""Tokens of a branch."""


def event(**body: Any) -> bytes:
    return b"data: " + json.dumps({"id": "x", "created": 1, "model": "m", **body}).encode() + b"\n\n"


def chunk(index: int, text: str, total: int, finish: str | None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "token_ids": None}
    usage = {"prompt_tokens": 10, "total_tokens": 10 + total, "completion_tokens": total}
    return event(object="chat.completion.chunk", choices=[choice], usage=usage)


def stream(n: int, interval: int) -> list[bytes]:
    """All events of a reply, branch by branch in turns, as an engine's steps would give them."""
    events = []
    for total in range(interval, TOKENS + 1, interval):
        finish = "stop" if total == TOKENS else None
        events += [chunk(index, " word" * interval, total, finish) for index in range(n)]
    usage = {"prompt_tokens": 10, "total_tokens": 10, "completion_tokens": n * TOKENS}
    return [*events, event(object="chat.completion.chunk", choices=[], usage=usage), b"data: [DONE]\n\n"]


def writes(n: int, interval: int, per_write: int) -> list[bytes]:
    events = stream(n, interval)
    return [b"".join(events[i : i + per_write]) for i in range(0, len(events), per_write)]


MADE: dict[tuple[int, int], list[bytes]] = {}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection: GETs with small JSON, POSTs with a stream."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            request = head.decode("latin-1")
            length = next((int(h[15:]) for h in request.lower().split("\r\n") if h.startswith("content-length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            if request.startswith("GET"):
                plain(writer, {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 8192}]})
                continue
            await stream_events(writer, int(body.get("n") or 1), int(body.get("stream_interval") or 1))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def plain(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw)


async def stream_events(writer: asyncio.StreamWriter, n: int, interval: int) -> None:
    """An engine's step makes one event of every branch at once, so they are written together."""
    if (n, interval) not in MADE:
        MADE[n, interval] = writes(n, interval, max(n, 1))
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in MADE[n, interval]:
        writer.write(b"%x\r\n" % len(part) + part + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
