"""Requests without a strategy: vLLM's own, bytes in and bytes out, cancelled when the client leaves.

Three things are mended on the way: errors get OpenAI's shape, a stream that was cut ends in an error instead of looking
like a success, and the engine always says what it spends, which is taken out again where the client did not ask. What a
request may cost is set aside before it is sent on; prompts times samples are branches like those of a search.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import httpx
import orjson
from fastapi import Request
from fastapi.responses import Response

from service.chat.metering import ASKED_FOR_USAGE, USAGE, Meter, MeteredEvents, parse_if_object, raise_error, usage_of
from service.chat.order import check_logprobs
from service.chat.whole import WholeReply, streamable
from service.context import Context
from service.engines.vllm.bodies import STREAM_INTERVAL
from service.engines.vllm.client import VllmClient
from service.engines.vllm.engine import PRIORITY
from service.engines.vllm.errors import check, parse, parsing
from service.engines.vllm.stream import raw_events, split
from service.errors import ApiError, translate
from service.web.admission import Place
from service.web.bodies import ReplyCut, Stream, unless_gone
from service.web.middleware import RequestInfo
from service.wire.chat import StreamOptions
from service.wire.lengths import fewest_tokens
from service.wire.plain import CHAT, COMPLETIONS, GENERATING, RESPONSES, PlainRequest, parse_plain
from strategies.errors import EngineError, EngineRefused, EngineUnavailable

ENDS_WITH_DONE = frozenset({CHAT, COMPLETIONS})
BEFORE_SEARCHES = "-1"
"""Lower is earlier, and what has a place beside the searches has 0 or more."""

SALTED = frozenset({CHAT, COMPLETIONS, RESPONSES, "/v1/embeddings"})
"""What goes through the prefix cache."""

DATA_PARALLEL = "x-data-parallel-rank"

HELD_BYTES = 2**20
"""A whole reply is held up to here, so that a fault has a status; a larger one goes to the client as it comes."""

SAID_USAGE = re.compile(rb'"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
"""In JSON as vLLM writes it. Inside a text the quotes would have backslashes."""
OVERLAP = 1024


async def forward(
    request: Request, context: Context, seen: RequestInfo, path: str, body: Mapping[str, Any], raw: bytes, model: str
) -> Response:
    """Send a body on to vLLM and return its reply; raise ApiError for one that may cost more than it may."""
    sent = headers(request, seen, body)
    exchange = Exchange(context, seen, path, body, raw, model, sent, parse_plain(body))
    return await unless_gone(request, context.shutdown.within_deadline(exchange.begin()))


def headers(request: Request, seen: RequestInfo, body: Mapping[str, Any]) -> dict[str, str]:
    """The few headers that go along, never the caller's key; and the priority, unless an admin chose one."""
    kept = {"X-Request-Id": request.scope["request_id"], "X-Session-ID": request.scope["request_id"]}
    if body.get("priority") is None:
        kept[PRIORITY] = BEFORE_SEARCHES
    rank = request.headers.get(DATA_PARALLEL)
    if rank is not None and seen.caller != "admin":
        raise ApiError(400, f"{DATA_PARALLEL} steers the engine and needs an admin key", None, "unsupported_parameter")
    return kept if rank is None else kept | {DATA_PARALLEL: rank}


@dataclass
class Exchange:
    """One plain request on its way to vLLM, and the reply on its way back."""

    context: Context
    seen: RequestInfo
    path: str
    body: Mapping[str, Any]
    raw: bytes
    model: str
    headers: dict[str, str]
    asked: PlainRequest

    @cached_property
    def branches(self) -> int:
        """How many answers are generated at once."""
        return self.asked.prompts * self.asked.samples if self.path in GENERATING else 1

    @cached_property
    def gathered(self) -> bool:
        """Whether a reply that is wanted whole is asked for as a stream, which says what it costs as it comes."""
        return not self.asked.stream and streamable(self.path, self.body)

    async def begin(self) -> Response:
        """The reply, or its beginning. When the client leaves before its end it pays for what was generated; of a reply
        that cannot be asked for as a stream that is not known, and what was set aside is kept."""
        self.check_branches()
        self.check_logprobs()
        async with AsyncExitStack() as stack:
            spending = stack.enter_context(self.seen.account.spending(self.reserved))
            place = await stack.enter_async_context(self.place())
            backend = await self.context.backends.serving(self.model)
            client = stack.enter_context(backend.request())
            meter = Meter(spending, self.asked.n or 1, self.prompts)
            if not (self.asked.stream or self.gathered):
                spending.tokens = self.reserved
            stack.callback(self.record, meter, place)
            if place is not None and PRIORITY in self.headers:
                self.headers[PRIORITY] = str(place.priority)
            try:
                return await self.send(client, stack, meter)
            except EngineError as error:
                self.charge_fault(error, meter)
                raise

    def charge_fault(self, error: EngineError, meter: Meter) -> None:
        """Nothing is charged where nothing was generated. Of a whole reply that is not known once the engine may have
        begun with it, and what was set aside is kept."""
        begun = error.accepted if isinstance(error, EngineUnavailable) else not isinstance(error, EngineRefused)
        if begun and not (self.asked.stream or self.gathered):
            error.generated = True
        elif not meter.generated:
            meter.spending.tokens = 0

    async def send(self, client: VllmClient, stack: AsyncExitStack, meter: Meter) -> Response:
        client.check_length(self.model, self.asked.longest_text)
        opened = client.open("POST", self.path, self.content(client), self.headers)
        response = await stack.enter_async_context(opened)
        chunks = client.chunks(response)
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        if not (streamed and response.is_success):
            return await self.read(response, chunks, stack, meter)
        if self.gathered:
            return await self.gather(chunks, meter)
        source = self.stream(chunks, stack.pop_all(), meter)
        return Stream(source, await anext(source))

    def content(self, client: VllmClient) -> bytes:
        """The bytes for vLLM: the caller's own, unless something had to be decided here."""
        decided: dict[str, Any] = {"model": self.model}
        salts = self.context.salts
        if self.path in SALTED and (salt := salts.salt(self.seen.account.name, self.body.get("cache_salt"))):
            decided["cache_salt"] = salt
        if self.gathered or (self.asked.stream and self.path in ASKED_FOR_USAGE):
            decided |= {"stream": True, "stream_options": {**(self.body.get("stream_options") or {}), **USAGE}}
        if self.gathered and "stream_interval" in client.capabilities.fields:
            decided["stream_interval"] = STREAM_INTERVAL
        return self.raw if self.body.items() >= decided.items() else orjson.dumps({**self.body, **decided})

    def check_branches(self) -> None:
        most = self.seen.account.settings.max_samples
        if self.branches > most:
            param = "prompt" if self.asked.prompts > most else "n"
            message = f"{param}: this server has at most {most} branches a request, not {self.branches}"
            raise ApiError(400, message, param, "invalid_value")

    def check_logprobs(self) -> None:
        """Raise ApiError for a whole reply that would be too large; a stream is held nowhere."""
        if not self.asked.stream:
            check_logprobs(self.branches * self.limit, self.logprobs_a_token, self.context.settings)

    @property
    def limit(self) -> int:
        """The most tokens of one answer: what the request says, as far as it fits what is known of the context."""
        if self.path not in GENERATING:
            return 0
        bound = self.asked.bound(self.path)
        contexts = self.context.backends.base.client.contexts
        if not contexts:
            return bound or 0
        context = contexts.get(self.model, max(contexts.values()))
        return max(context - fewest_tokens(self.asked.texts), 0) if bound is None else min(bound, context)

    @property
    def prompts(self) -> list[int]:
        """What each prompt is set aside for; a tokenizer's work costs no tokens."""
        return self.asked.prompt_tokens if self.path in SALTED else []

    @property
    def reserved(self) -> int:
        """What is set aside for the whole request."""
        return sum(self.prompts) + self.branches * self.limit

    @property
    def logprobs_a_token(self) -> int:
        return self.asked.logprobs_a_token(self.path)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place | None]:
        """A place beside the searches; a single answer needs none: the engine serves it before them."""
        if self.branches == 1:
            yield None
            return
        hold = self.context.admission.hold(self.seen.account.name, self.branches, self.branches * self.limit)
        async with hold as place:
            yield place

    def record(self, meter: Meter, place: Place | None) -> None:
        """Tell the log, the metrics and the queue what was generated."""
        self.seen.tokens = meter.generated
        if place is not None:
            place.used = meter.generated
        fate = "returned" if meter.settled else "cancelled"
        self.context.metrics.tokens.labels("none", "policy", fate).inc(meter.generated)

    async def gather(self, chunks: AsyncGenerator[bytes], meter: Meter) -> Response:
        """The whole reply of a stream."""
        reply = WholeReply(self.path)
        async with aclosing(split(chunks)) as batches:
            async for events in batches:
                for event in map(parse, events):
                    raise_error(event)
                    meter.take(event)
                    with parsing("a stream"):
                        reply.take(event)
        if not reply.complete(self.branches):
            raise EngineUnavailable("the engine's stream ended before its end", generated=True)
        dumps = partial(reply.dumps, meter.usage)
        content = await asyncio.to_thread(dumps) if self.logprobs_a_token else dumps()
        return Response(content, media_type="application/json")

    async def read(
        self, response: httpx.Response, chunks: AsyncGenerator[bytes], stack: AsyncExitStack, meter: Meter
    ) -> Response:
        """The reply of an endpoint that does not stream; a large one is passed on as it comes."""
        parts: list[bytes] = []
        while sum(map(len, parts)) <= HELD_BYTES and (chunk := await anext(chunks, b"")):
            parts.append(chunk)
        content, kind = b"".join(parts), response.headers.get("content-type")
        check(response.status_code, content)
        meter.spending.tokens = self.reserved  # unless it says its usage
        if len(content) > HELD_BYTES:
            source = self.pass_on(content, chunks, stack.pop_all(), meter)
            return Stream(source, await anext(source), response.status_code, kind or "application/octet-stream")
        spoken = (kind or "").startswith("application/json")  # embeddings may be bytes
        if usage := usage_of(parse(content)) if spoken else {}:
            meter.settle(usage)
        return Response(content, response.status_code, media_type=kind)

    async def pass_on(
        self, content: bytes, chunks: AsyncGenerator[bytes], stack: AsyncExitStack, meter: Meter
    ) -> AsyncGenerator[bytes]:
        """First nothing, from where on the stack is this generator's; then the bytes. One that is cut has no end."""
        async with stack:
            yield b""
            tail = b""
            while content:
                tail += content
                for said in SAID_USAGE.findall(tail):
                    meter.settle(parse_if_object(said))
                tail = tail[-OVERLAP:]
                yield content
                try:
                    content = await self.context.shutdown.within_deadline(anext(chunks, b""))
                except (EngineError, ApiError) as error:
                    raise ReplyCut(str(error)) from error

    async def stream(self, chunks: AsyncGenerator[bytes], stack: AsyncExitStack, meter: Meter) -> AsyncGenerator[bytes]:
        """First nothing, from where on the stack is this generator's; then whole events as they come. An error or a cut
        ends the stream with OpenAI's error and no `[DONE]`."""
        options = (self.asked.stream_options or StreamOptions()) if self.path in ASKED_FOR_USAGE else None
        metered = MeteredEvents(meter, options)
        async with stack, aclosing(raw_events(chunks)) as batches:
            yield b""
            try:
                while events := await self.context.shutdown.within_deadline(anext(batches, None)):
                    if passed := metered.take(events):
                        yield passed
                    if metered.fault is not None:
                        raise metered.fault
                if self.path in ENDS_WITH_DONE and not metered.ended:
                    raise EngineUnavailable("the engine's stream ended before its end", generated=True)
            except EngineError as error:
                yield translate(error).event()
            except ApiError as error:
                yield error.event()
