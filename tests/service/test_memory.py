"""What the server's process holds for the worst requests that it allows, eight at once.

`pytest tests/service/test_memory.py -s` prints by how much each kind made it grow.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.conftest import chat, free_port, serving
from tests.upstream import DONE, MODEL

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
AT_ONCE = 8
BRANCH = "the index of the branch"
SAMPLES, TOKENS, TOP = 64, 148, 20
LOGPROBS = 200_000
"""`max_reply_logprobs`: just above what so many samples have."""
BODY_BYTES = 1_000_000
LARGE_REPLY = 16 * 2**20
GROWTH_BYTES = 400 * 2**20
"""As docs/limits.md has it: 200 bytes a log-probability or 30 a byte of the body, and what allocators keep."""

WORDS = [f" word{i}" for i in range(997)]


def entry(words: Iterator[str]) -> dict[str, Any]:
    return {"token": next(words), "logprob": -1.5, "bytes": [1, 2, 3, 4, 5, 6]}


def entries(words: Iterator[str], tokens: int, top: int) -> list[dict[str, Any]]:
    return [{**entry(words), "top_logprobs": [entry(words) for _ in range(top)]} for _ in range(tokens)]


def as_lists(listed: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "text_offset": [0] * len(listed),
        "tokens": [one["token"] for one in listed],
        "token_logprobs": [one["logprob"] for one in listed],
        "top_logprobs": [{top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in listed],
    }


async def events(path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Every branch in events of 16 tokens, with the log-probabilities that were asked for."""
    words, wants = cycle(WORDS), body.get("logprobs") not in (None, False)
    top = body.get("top_logprobs", body["logprobs"] if wants else 0)
    branches = body.get("n", 1) * (len(body["prompt"]) if path == COMPLETIONS else 1)
    for total in range(16, TOKENS + 16, 16):
        total = min(total, TOKENS)
        listed = entries(words, total - (total - 1) // 16 * 16, top) if wants else []
        said: dict[str, Any] = {"delta": {"content": "word " * 16}, "logprobs": {"content": listed}}
        if path == COMPLETIONS:
            said = {"text": "word " * 16, "logprobs": as_lists(listed)}
        choice = {"index": BRANCH, "finish_reason": "length" if total == TOKENS else None, **said}
        usage = {"prompt_tokens": 7, "completion_tokens": total}
        event = json.dumps({"id": "x", "created": 1, "choices": [choice], "usage": usage})
        before, after = event.split(f'"{BRANCH}"')  # encoded once, since that takes longer than what is tested
        for index in range(branches):
            yield f"data: {before}{index}{after}\n\n".encode()
    yield DONE


async def answer(request: Request) -> Response:
    body, path = await request.json(), request.url.path
    if path in (CHAT, COMPLETIONS) and body.get("stream"):
        return StreamingResponse(events(path, body), media_type="text/event-stream")
    return Response(b'{"data": "%b"}' % (b"x" * LARGE_REPLY), media_type="application/json")


def engine() -> Starlette:
    paths = (CHAT, COMPLETIONS, TOKENIZE, "/v1/embeddings", "/v1/responses")
    models = Route("/v1/models", lambda _: JSONResponse({"object": "list", "data": [MODEL]}))
    posts = [Route(path, answer, methods=["POST"]) for path in paths]
    return Starlette(routes=[*posts, models, Route("/health", lambda _: Response())])


SAMPLED: dict[str, Any] = {"max_tokens": TOKENS, "logprobs": True, "top_logprobs": TOP}
HELD = ["x"] * (BODY_BYTES // 5)
NESTED: list[Any] = [[]] * (BODY_BYTES // 4 - 100)
WORST: dict[str, tuple[str, dict[str, Any]]] = {
    "self_certainty": (
        CHAT,
        chat(max_tokens=TOKENS, strategy={"type": "best_of_n", "samples": SAMPLES, "scorer": "self_certainty"}),
    ),
    "deepconf": (
        CHAT,
        chat(max_tokens=TOKENS, strategy={"type": "self_consistency", "samples": SAMPLES, "vote": "deepconf"}),
    ),
    "votes with log-probabilities": (
        CHAT,
        chat(**SAMPLED, n=SAMPLES, strategy={"type": "self_consistency", "samples": SAMPLES}),
    ),
    "… streamed": (
        CHAT,
        chat(**SAMPLED, n=SAMPLES, stream=True, strategy={"type": "self_consistency", "samples": SAMPLES}),
    ),
    "chain_of_thought, streamed": (CHAT, chat(**SAMPLED, n=SAMPLES, stream=True, strategy="chain_of_thought")),
    "plain": (CHAT, chat(**SAMPLED, n=SAMPLES)),
    "plain, streamed": (CHAT, chat(**SAMPLED, n=SAMPLES, stream=True)),
    "a list of prompts": (COMPLETIONS, {"prompt": ["a"] * SAMPLES, "max_tokens": TOKENS, "logprobs": TOP}),
    "a large input": ("/v1/responses", {"input": "x" * (BODY_BYTES - 100)}),
    "a large reply": ("/v1/embeddings", {"input": HELD}),
    "a large text to tokenize": (TOKENIZE, {"prompt": "x" * (BODY_BYTES - 100)}),
    "a nested body": (TOKENIZE, {"prompt": NESTED}),
    "a grader": ("/v1/fine_tuning/alpha/graders/run", {"grader": {}, "item": {"x": NESTED}, "model_sample": "x"}),
}


@contextmanager
def process(engine_url: str, data: Path) -> Iterator[tuple[str, int]]:
    """The server as it is served, and its process."""
    port = free_port()
    own = {"PORT": port, "ENGINE_URL": engine_url, "MODEL_NAME": "smollm2", "DATA_DIR": data, "LOG_LEVEL": "WARNING"}
    own |= {"MAX_SAMPLES": SAMPLES, "MAX_REPLY_LOGPROBS": LOGPROBS, "MAX_BODY_BYTES": BODY_BYTES}
    environment = os.environ | {f"OUTTHINK_{name}": str(value) for name, value in own.items()}
    server = subprocess.Popen([sys.executable, "-m", "service", "serve"], env=environment)
    try:
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.terminate()
        server.wait(60)


@asynccontextmanager
async def served(data: Path) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    async with serving(engine()) as engine_url:
        with process(engine_url, data) as (url, pid):
            async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
                while not await ready(client):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                yield client, pid


async def ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


def peak(pid: int) -> int:
    """The most bytes that the process has had since `forget`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> int:
    """The status; what comes is thrown away, so that this process does not hold it."""
    async with client.stream("POST", path, json={"model": "smollm2", **body}) as reply:
        async for _ in reply.aiter_raw():
            pass
    return reply.status_code


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_worst_requests_eight_at_once_stay_within_a_bound(tmp_path: Path) -> None:
    grown = {}
    async with served(tmp_path) as (client, pid):
        await ask(client, CHAT, chat(strategy="self_consistency", max_tokens=TOKENS))  # starts the answer pool
        before = peak(pid)
        for name, (path, body) in WORST.items():
            forget(pid)
            statuses = await asyncio.gather(*(ask(client, path, body) for _ in range(AT_ONCE)))
            grown[name] = peak(pid) - before
            print(f"\n{name}: {sorted(set(statuses))}, grown by {grown[name] / 2**20:.0f} MiB", end="")
            assert not any(status >= 500 for status in statuses)
    assert max(grown.values()) < GROWTH_BYTES, grown
