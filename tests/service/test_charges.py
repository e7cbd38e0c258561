"""What a key is charged: the tokens that the engine counted for it, whatever its requests, departures and faults."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.chat.metering import Meter
from service.settings import Settings
from service.web.rate_limits import Account
from service.wire.plain import as_prompts
from tests.conftest import outthink, serving
from tests.upstream import DONE, ERROR, MODEL, event

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LIMIT = 10_000_000
EXAMPLES = int(os.environ.get("OUTTHINK_TEST_EXAMPLES", 25))
KEY = {"Authorization": "Bearer alice"}
PROMPT_TOKENS = 7


@dataclass(frozen=True)
class Fault:
    """After so many events: an error in the stream, a reset, or none; `status` refuses the request at once."""

    kind: str = ""
    after: int = 0


@dataclass
class Seen:
    """Lets a test wait until the service has taken notice of so many events."""

    events: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, events: int) -> None:
        while self.events < events:
            self.more.clear()
            await self.more.wait()


@dataclass
class Counting:
    """An engine that generates a token an event and counts as vLLM does: prompts once, every token that was made.

    It stops when its client goes, and before event number `wait` it waits for that.
    """

    seen: Seen
    prompts: int = 0
    generated: int = 0
    fault: Fault = field(default_factory=Fault)
    wait: int | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        posts = [Route(path, self.answer, methods=["POST"]) for path in (CHAT, COMPLETIONS)]
        models = Route("/v1/models", lambda _: JSONResponse({"object": "list", "data": [MODEL]}))
        return Starlette(routes=[*posts, models, Route("/health", lambda _: Response())])

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        if self.fault.kind == "status":
            self.closed.set()
            return JSONResponse({"error": {"message": "no"}}, 400)
        prompts, n = len(as_prompts(body.get("prompt"))) or 1, body.get("n") or 1
        events = self.events(request.url.path == CHAT, prompts, n, body["max_tokens"])
        if body.get("stream"):
            return StreamingResponse(events, media_type="text/event-stream")
        async for _ in events:
            pass
        usage = {"prompt_tokens": PROMPT_TOKENS * prompts, "completion_tokens": prompts * n * body["max_tokens"]}
        return JSONResponse({"choices": [], "usage": usage | {"total_tokens": sum(usage.values())}})

    async def events(self, chat: bool, prompts: int, n: int, tokens: int) -> AsyncIterator[bytes]:
        """Branches by turns, so that some have not begun when others are far. All prompts are read at once."""
        sent = 0
        try:
            self.prompts += PROMPT_TOKENS * prompts
            for total in range(1, tokens + 1):
                for index in range(prompts * n):
                    if sent == self.wait:
                        await asyncio.Event().wait()
                    if self.fault.kind and sent == self.fault.after:
                        if self.fault.kind == "reset":
                            await self.seen.until(sent)  # a reset destroys what is still on its way
                            raise ConnectionResetError
                        yield ERROR
                        return
                    sent += 1
                    self.generated += 1
                    said: dict[str, Any] = {"delta": {"content": "a"}} if chat else {"text": "a"}
                    finish = "length" if total == tokens else None
                    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": total}
                    choice = {"index": index, "finish_reason": finish, **said}
                    yield event(id="x", created=1, model="smollm2", choices=[choice], usage=usage)
            usage = {"prompt_tokens": PROMPT_TOKENS * prompts, "completion_tokens": sent}
            yield event(id="x", choices=[], usage=usage | {"total_tokens": sum(usage.values())})
            yield DONE
        finally:
            self.closed.set()


@dataclass(frozen=True)
class Act:
    """One request; `leaves` is after how many events the client goes."""

    chat: bool
    stream: bool
    usage: bool
    prompts: int
    n: int
    tokens: int
    leaves: int | None
    fault: Fault

    @property
    def body(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": "smollm2", "n": self.n, "max_tokens": self.tokens, "stream": self.stream}
        asked |= {"stream_options": {"include_usage": True}} if self.stream and self.usage else {}
        if self.chat:
            return asked | {"messages": [{"role": "user", "content": "a" * 4 * PROMPT_TOKENS}]}
        return asked | {"prompt": ["a" * 4 * PROMPT_TOKENS] * self.prompts}

    @property
    def departure(self) -> int | None:
        """After which event the client leaves: one there must be, and a fault may come first."""
        total = self.tokens * self.n * (1 if self.chat else self.prompts)
        if self.leaves is None or not 0 < self.leaves < total or self.fault.kind:
            return None
        return self.leaves


FAULTS = st.builds(Fault, st.sampled_from(["", "", "error", "reset", "status"]), st.integers(1, 9))
ACTS = st.builds(
    Act,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.none() | st.integers(1, 12),
    FAULTS,
)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Buckets that stand still, and every event that the meter takes."""
    defaults: Any = Account.__init__.__defaults__
    monkeypatch.setattr(Account.__init__, "__defaults__", (lambda: 0.0, *defaults[1:]))
    noticed, take = Seen(), Meter.take

    def observed(meter: Meter, said: Any) -> None:
        take(meter, said)
        noticed.events += 1
        noticed.more.set()

    monkeypatch.setattr(Meter, "take", observed)
    return noticed


async def spent(client: httpx.AsyncClient) -> int:
    """What the key has been charged until now."""
    reply = await client.get("/v1/models", headers=KEY)
    return LIMIT - int(reply.headers["x-ratelimit-remaining-tokens"])


async def perform(act: Act, client: httpx.AsyncClient, engine: Counting, seen: Seen) -> None:
    engine.fault, engine.wait, engine.closed = act.fault, act.departure, asyncio.Event()
    before, seen.events = await spent(client), 0
    path = CHAT if act.chat else COMPLETIONS
    asking = asyncio.create_task(client.post(path, json=act.body, headers=KEY))
    if act.departure is None:
        await asking
        return
    await seen.until(act.departure)
    assert await spent(client) > before, "it is set aside"
    asking.cancel()
    await asyncio.wait([asking])
    await engine.closed.wait()


@given(acts=st.lists(ACTS, min_size=1, max_size=6))
@settings(
    max_examples=EXAMPLES, phases=(Phase.explicit, Phase.generate), suppress_health_check=tuple(HealthCheck)
)  # every example is a server, and shrinking one takes minutes
async def test_a_key_is_charged_what_the_engine_counted(seen: Seen, acts: list[Act]) -> None:
    engine = Counting(seen)
    limits: dict[str, Any] = {"tokens_per_minute": LIMIT, "api_keys": ("alice",), "retries": 0}
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(engine.app()))
        own = Settings(engine_url=url, model_name="smollm2", **limits)
        client = await stack.enter_async_context(outthink(settings=own))
        for act in acts:
            await perform(act, client, engine, seen)
            async with asyncio.timeout(20):
                while await spent(client) != engine.prompts + engine.generated:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # what was set aside is given back a moment later
