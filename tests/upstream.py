"""A server that speaks vLLM's API and can be told to fail at any point, as a real one cannot.

A `Script` decides, for every request, which pieces of a reply are sent and whether the connection is then cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = {"id": "smollm2", "object": "model", "created": 1, "owned_by": "vllm", "root": "smollm2", "max_model_len": 4096}


def event(**body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def piece(text: str, total: int, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    """One chunk of a streamed chat completion, with continuous usage as vLLM sends it."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish, **more}
    usage = {"prompt_tokens": 7, "completion_tokens": total, "total_tokens": 7 + total}
    return event(id="x", object="chat.completion.chunk", created=1, model="smollm2", choices=[choice], usage=usage)


DONE = b"data: [DONE]\n\n"
ERROR = event(error={"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500})


@dataclass(frozen=True)
class Script:
    """`status` and `body` for a plain reply; `pieces` for a stream; `cut` resets the connection at the end."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    body: bytes = b""
    cut: bool = False
    content_type: str = "application/json"
    hold: asyncio.Event | None = None  # awaited after the pieces
    stream_type: str = "text/event-stream"  # of the pieces


@dataclass
class Upstream:
    """The application. `scripts` answer one request each, in order, the last one for ever."""

    scripts: list[Script]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        answer = [Route(path, self.answer, methods=["POST"]) for path in PATHS]
        known: list[tuple[str, Callable[[Request], Any]]] = [
            ("/health", lambda _: Response()),
            ("/version", lambda _: JSONResponse({"version": "0.32.0"})),
            ("/v1/models", lambda _: JSONResponse({"object": "list", "data": [MODEL]})),
        ]
        return Starlette(routes=[*answer, *(Route(path, endpoint) for path, endpoint in known)])

    async def answer(self, request: Request) -> Response:
        self.raw.append(await request.body())
        self.bodies.append(json.loads(self.raw[-1]))
        self.headers.append(dict(request.headers))
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if script.pieces or script.hold or script.cut:
            return StreamingResponse(self.stream(script), media_type=script.stream_type)
        return Response(script.body, script.status, media_type=script.content_type)

    async def stream(self, script: Script) -> AsyncIterator[bytes]:
        try:
            for part in script.pieces:
                yield part
            if script.hold:
                await script.hold.wait()
        except asyncio.CancelledError:
            self.aborted.set()
            raise
        if script.cut:
            raise ConnectionResetError


PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/tokenize",
    "/v1/unload_lora_adapter",
)
