"""vLLM over its public HTTP API, alone or behind a router.

`VllmClient` is shared by the whole service: connections, time-outs, retries, what the engine can do. `VllmEngine` is
one run's view of it, bound to a model and a session id, and implements the `Engine` protocol.

What a complete reply is: every branch has a finish_reason. `[DONE]`, a clean end of file and status 200 prove nothing,
since a replica that dies in mid-stream ends with any of them. Retried is what has generated nothing yet: a connection
that failed, 5xx, 429, a stream cut before its first token. Once tokens are out a new try would be billed twice, so the
branches that finished are kept and the rest is reported as failed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from service.settings import Settings
from strategies.errors import EngineError, EngineNonsense, EngineRefused, EngineUnavailable
from strategies.types import Batch, Call, Chat, Delta, Ids

log = logging.getLogger(__name__)

STREAM_INTERVAL = 16
"""Tokens an event: at a GPU's speed an event for every token would cost more than the service may."""

TOP_LOGPROBS = 20
"""The most that a vLLM allows unless told otherwise; also the plain way to label probabilities (see `extend_body`)."""


DONE = b"data: [DONE]"

LARGEST_EVENT = 64 * 1024 * 1024
"""Bytes: some times the largest that 1024 samples with 20 log-probabilities at 16 tokens make."""

PAUSE_SECONDS = 0.1
"""Before the first new try; doubled for each further one, and stretched at random by up to as much again."""

UNLIMITED = httpx.Limits(max_connections=0, keepalive_expiry=30)
"""Streams are as many as there are requests: admission limits them, not the connections."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the engine said of itself; None where it did not say, as behind some routers."""

    version: str | None = None
    paths: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """What this engine lacks, and what that means, for the log."""
        if not self.fields:
            return []
        wanted = {
            "stream_interval": "an event comes for every token, which costs the service more",
            "logprob_token_ids": f"judges read their grades among the {TOP_LOGPROBS} most likely tokens",
            "return_token_ids": "searches over steps cannot continue by token ids",
        }
        lacks = [f"{name}: {meaning}" for name, meaning in wanted.items() if name not in self.fields]
        return lacks + ([] if "/tokenize" in self.paths else ["/tokenize: judges and searches over steps do not work"])


class VllmClient:
    """Connections to one vLLM, or to a router in front of many.

    Time-outs: to connect (short: the engine is near), for the first byte (long: a request may queue), between bytes;
    none in total, because a long answer is not a fault. httpx speaks through aiohttp, whose parser is in C and hands
    over all that has arrived at once, where httpx's own hands over every event by itself at several times the cost.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        self.capabilities = Capabilities()
        self.contexts: dict[str, int] = {}
        self.gate: Callable[[], None] = lambda: None  # raises EngineUnavailable while a managed engine is not up
        self.route: Callable[[str], Awaitable[VllmClient]] | None = None  # to vLLMs beside this one, by model
        self.active = 0  # requests that run
        self.used = time.monotonic()  # when the last one began or ended
        key = settings.engine_api_key.get_secret_value()
        self.http = httpx.AsyncClient(
            base_url=settings.engine_base,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(
                settings.first_byte_seconds, connect=settings.connect_seconds, pool=settings.connect_seconds
            ),
            transport=transport or AiohttpTransport(limits=UNLIMITED, trust_env=False),
            trust_env=False,  # the engine is reached directly, whatever proxies the environment names
        )

    async def close(self) -> None:
        await self.http.aclose()

    async def serving(self, model: str) -> VllmClient:
        """The client of the vLLM that serves a model: this one, unless the model has a vLLM of its own."""
        return self if self.route is None else await self.route(model)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request for as long as it runs."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self.used = time.monotonic()

    async def probe(self) -> Capabilities:
        """Ask the engine for its version, endpoints and fields. A router may not know: that is no error."""
        version = await self._ask("/version")
        described = await self._ask("/openapi.json")
        body = inside(described, "components", "schemas", "CompletionRequest", "properties")
        self.capabilities = Capabilities(version.get("version"), frozenset(inside(described, "paths")), frozenset(body))
        for lack in self.capabilities.missing:
            log.warning("the engine lacks %s", lack)
        return self.capabilities

    async def _ask(self, path: str) -> dict[str, Any]:
        """A JSON object, or an empty one where the engine has none to give."""
        try:
            return await self.json("GET", path)
        except (EngineRefused, EngineNonsense):
            return {}

    async def models(self) -> list[dict[str, Any]]:
        """The engine's own list of models; remembers the context of each."""
        models: list[dict[str, Any]] = (await self.json("GET", "/v1/models")).get("data", [])
        with understood("a list of models"):
            lengths = {known(model["id"], str): known(model.get("max_model_len"), int, NoneType) for model in models}
        base = next((length for length in lengths.values() if length), None)
        self.contexts |= {name: length or base for name, length in lengths.items() if length or base}
        return models

    async def healthy(self) -> bool:
        """Whether requests would be answered: `/readiness` of a router, `/health` of vLLM, else the list of models."""
        for path in ("/readiness", "/health", "/v1/models"):
            try:
                response = await self.http.get(path, timeout=self.settings.connect_seconds)
            except httpx.HTTPError:
                return False
            if response.status_code not in (404, 405):
                return response.status_code == 200
        return False

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call an endpoint that generates nothing, so it may be tried again."""
        self.gate()
        async for last in self.attempts():
            try:
                with translated(), self.busy():
                    content = None if body is None else orjson.dumps(body)
                    response = await self.http.request(method, path, content=content, headers=as_json(headers))
                check(response.status_code, response.content)
                return parse(response.content)
            except (EngineUnavailable, EngineNonsense):
                if last:
                    raise
        raise AssertionError("attempts() ends with its last try")

    async def attempts(self) -> AsyncIterator[bool]:
        """Yield once for every try, with a growing pause between; true for the last."""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt * (1 + random.random()))
            yield attempt == self.settings.retries

    @asynccontextmanager
    async def open(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield the response, unread; closing it aborts the request in the engine."""
        self.gate()
        with self.busy():
            response = await self.connected(method, path, content, as_json(headers))
            try:
                yield response
            finally:
                await response.aclose()

    async def connected(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        """Send a request, trying again while no connection was made; nothing has reached the engine then."""
        async for last in self.attempts():
            request = self.http.build_request(method, path, content=content, headers=headers)
            try:
                with translated():
                    return await self.http.send(request, stream=True)
            except EngineUnavailable as error:
                if last or not isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout)):
                    raise
        raise AssertionError("attempts() ends with its last try")

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        """The bytes of a reply as they come; EngineUnavailable when they stop coming."""
        limit = self.settings.first_byte_seconds
        raw = response.aiter_raw()
        while True:
            with translated():
                async with asyncio.timeout(limit):
                    chunk = await anext(raw, b"")
            if not chunk:
                return
            yield chunk
            limit = self.settings.between_bytes_seconds

    async def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[list[bytes]]:
        """Stream the data of server-sent events, all that came at once in one list; no retries."""
        async with self.open("POST", path, orjson.dumps(body), headers) as response:
            if not response.is_success:
                with translated():
                    check(response.status_code, await response.aread())
            async with aclosing(split(self.chunks(response))) as events:
                async for said in events:
                    yield said


async def split(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[list[bytes]]:
    """The data of server-sent events, of all that are whole, however the bytes were cut on their way."""
    rest = b""
    async for chunk in chunks:
        *events, rest = (rest + chunk).split(b"\n\n")
        if said := [event[6:] for event in events if event.startswith(b"data: ") and event != DONE]:
            yield said
        if len(rest) > LARGEST_EVENT:
            raise EngineNonsense(f"the engine sent an event of more than {LARGEST_EVENT} bytes")


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """One run's engine: a model behind the shared client. Every call carries the run's session id, which routers use to
    keep a search on the replica that has its prefixes."""

    client: VllmClient
    model: str
    session_id: str

    async def context(self, model: str | None = None) -> int:
        name = model or self.model
        client = await self.client.serving(name)
        if name not in client.contexts:
            await client.models()
        if name not in client.contexts:  # behind some routers only the tokenizer says
            told = await self._tokenize({"prompt": "", "model": name})
            client.contexts[name] = told["max_model_len"]
        return client.contexts[name]

    async def render(self, chat: Chat, model: str | None = None) -> Ids:
        kept = ("tools", "chat_template_kwargs", "chat_template", "documents", "add_generation_prompt")
        options = {name: chat.fields[name] for name in kept if name in chat.fields}
        return await self._tokens({**options, "messages": chat.messages, "model": model or self.model})

    async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> Ids:
        return await self._tokens({"prompt": text, "add_special_tokens": special, "model": model or self.model})

    async def detokenize(self, ids: Ids, model: str | None = None) -> str:
        body = {"tokens": ids, "model": model or self.model}
        told = await self._json("/detokenize", body)
        with understood("a text"):
            return str(known(told["prompt"], str))

    async def _tokens(self, body: Mapping[str, Any]) -> Ids:
        ids: Ids = (await self._tokenize(body))["tokens"]
        return ids

    async def _tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        told = await self._json("/tokenize", body)
        with understood("tokens"):
            return {"tokens": token_ids(told["tokens"]), "max_model_len": known(told["max_model_len"], int)}

    async def _json(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        client = await self.client.serving(body["model"])
        return await client.json("POST", path, body, self.headers)

    async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        body = sample_body(chat, call, self.model)
        async for batch in self._stream("/v1/chat/completions", body, call.n, None):
            yield batch

    async def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        prompt = call.n * sum(map(len, prefixes))
        body = extend_body(prefixes, call, self.model)
        async for batch in self._stream("/v1/completions", body, call.n * len(prefixes), prompt):
            yield batch

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Session-ID": self.session_id, "X-Request-Id": f"{self.session_id}-{random.getrandbits(32):08x}"}

    async def _stream(
        self, path: str, body: Mapping[str, Any], branches: int, prompt: int | None
    ) -> AsyncGenerator[Batch]:
        """Stream one call, trying again while nothing was generated."""
        client = await self.client.serving(body["model"])
        async for last in client.attempts():
            reply = Reply(branches, int(body["n"]), prompt)
            try:
                async for events in client.events(path, body, self.headers):
                    yield reply.take(events)
                    if reply.fault:
                        raise reply.fault
                reply.close()
            except EngineError as error:
                error.generated = reply.generated
                if last or reply.generated or hopeless(error):
                    raise
                log.info("trying again: %s", error)
            else:
                return


class Reply:
    """Checks one streamed reply and turns its events into batches. `prompt` is known where ids are continued."""

    def __init__(self, branches: int, n: int, prompt: int | None) -> None:
        self.unfinished = set(range(branches))
        self.totals = [0] * branches
        self.spelled = [0] * branches  # how many ids came
        self.n = n
        self.prompt = prompt
        self.counted = False
        self.fault: EngineError | None = None

    @property
    def generated(self) -> bool:
        return any(self.totals)

    def take(self, events: Iterable[bytes]) -> Batch:
        """What came at once, up to the first fault; what came before it was generated and is counted."""
        deltas: list[Delta] = []
        prompt = cached = None
        try:
            for raw in events:
                event = parse(raw)
                if "error" in event:
                    raise in_stream(event["error"])
                usage = event.get("usage") or {}
                if usage and not self.counted:
                    read = known(usage["prompt_tokens"], int) * self.n if self.prompt is None else self.prompt
                    prompt, self.counted = read, True
                if details := usage.get("prompt_tokens_details"):
                    cached = known(details.get("cached_tokens") or 0, int) * self.n
                for choice in event.get("choices", ()):
                    delta = self.delta(choice, usage)
                    whole = self.continuable(delta)
                    deltas.append(delta if whole else replace(delta, finish_reason=None))
                    if not whole:
                        raise EngineNonsense("the engine did not send an id for every token")
                    if delta.finish_reason:
                        self.unfinished.discard(delta.index)
        except EngineError as error:
            self.fault = error
        except MISSHAPEN as error:
            self.fault = EngineNonsense(f"the engine sent an event of an unknown shape: {error!r}")
        return Batch(tuple(deltas), prompt, cached)

    def delta(self, choice: dict[str, Any], usage: dict[str, Any]) -> Delta:
        index = choice.get("index")
        if type(index) is not int or index not in self.unfinished:
            raise EngineNonsense(f"the engine answered for branch {index}, which is not one of those unfinished")
        raw = checked(choice.get("delta") or {})
        text = known(choice.get("text") or raw.get("content") or "", str)
        finish = known(choice.get("finish_reason"), str, NoneType)
        ids = token_ids(choice.get("token_ids") or ())
        stop = known(choice.get("stop_reason"), str, int, NoneType)
        logprobs = logprobs_of(choice.get("logprobs"))
        return Delta(index, text, self.total(index, usage, text), finish, stop, raw, logprobs, ids)

    def total(self, index: int, usage: dict[str, Any], text: str) -> int:
        """Tokens of this branch so far, which the engine says with every text and which never become fewer."""
        total = usage.get("completion_tokens", None if text else self.totals[index])
        if type(total) is not int or total < self.totals[index]:
            raise EngineNonsense(f"the engine counted {total} tokens after {self.totals[index]}")
        self.totals[index] = total
        return total

    def continuable(self, delta: Delta) -> bool:
        """Whether what ended has an id for every token, where the next step continues ids."""
        self.spelled[delta.index] += len(delta.ids)
        if delta.finish_reason is None or self.prompt is None:
            return True
        return self.spelled[delta.index] == delta.total

    def close(self) -> None:
        if self.unfinished:
            raise EngineUnavailable(
                f"the engine's stream ended with {len(self.unfinished)} of {len(self.totals)} branches unfinished"
            )


def sample_body(chat: Chat, call: Call, model: str) -> dict[str, Any]:
    """A chat completion: the caller's fields as they came, and over them what the strategy decides."""
    body = {**chat.fields, "model": call.model or model, "messages": chat.messages, "n": call.n, **streaming(call)}
    if call.seed is not None:
        body["seed"] = call.seed
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.max_tokens is not None:
        body["max_tokens"] = call.max_tokens
    if call.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(call.logprobs, chat.fields.get("top_logprobs") or 0)}
    return body


def extend_body(prefixes: Sequence[Ids], call: Call, model: str) -> dict[str, Any]:
    """A completion of token ids. `max_tokens` is always sent: without it this endpoint stops after 16."""
    if call.max_tokens is None:
        raise ValueError("a continuation needs max_tokens")
    body: dict[str, Any] = {
        **call.fields,
        "model": call.model or model,
        "prompt": prefixes,
        "n": call.n,
        "max_tokens": call.max_tokens,
        "return_token_ids": True,
        **streaming(call),
    }
    optional = {"seed": call.seed, "temperature": call.temperature, "logprobs": call.logprobs, "stop": call.stop}
    body |= {name: value for name, value in optional.items() if value not in (None, ())}
    if call.stop:
        body["include_stop_str_in_output"] = True  # the text of a path is the concatenation of its steps
    if call.label_ids:
        # An engine that does not know logprob_token_ids ignores it and lists the most likely tokens.
        labels = {"logprob_token_ids": call.label_ids, "logprobs": TOP_LOGPROBS}
        body |= labels | {"return_tokens_as_token_ids": True}
    return body


def streaming(call: Call) -> dict[str, Any]:
    return {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "stream_interval": 1 if call.each_token else STREAM_INTERVAL,
    }


def logprobs_of(logprobs: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], ...]:
    """One shape for the log-probabilities of both endpoints, that of chat completions."""
    if not logprobs:
        return ()
    if "content" in logprobs:
        return tuple(map(logprob_of, logprobs["content"] or ()))
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        logprob_of(
            {
                "token": token,
                "logprob": value,
                "top_logprobs": [{"token": other, "logprob": p} for other, p in (top or {}).items()],
            }
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


def logprob_of(entry: dict[str, Any]) -> dict[str, Any]:
    for one in (entry, *entry["top_logprobs"]):
        known(one["token"], str)
        known(one["logprob"], float, int)
    return entry


MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError)
"""What reading something of an unknown shape raises."""


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Raise EngineNonsense where an answer has not the shape of what was asked for."""
    try:
        yield
    except MISSHAPEN as error:
        raise EngineNonsense(f"the engine was asked for {what} and answered in an unknown shape: {error!r}") from error


def known(value: Any, *types: type) -> Any:
    """The value, which has exactly one of these types."""
    if type(value) not in types:
        raise TypeError(f"{value!r:.80} is not {' or '.join(of.__name__ for of in types)}")
    return value


def token_ids(value: Sequence[Any]) -> Ids:
    ids = tuple(value)
    for one in ids:
        known(one, int)
    return ids


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """The delta of a message, when a whole message can be put together of it."""
    known(raw, dict)
    for name in ("reasoning", "reasoning_content"):
        known(raw.get(name), str, NoneType)
    for call in raw.get("tool_calls") or ():
        known(call.get("index", 0), int)
        function = call.get("function") or {}
        for part in (call.get("id"), function.get("name"), function.get("arguments")):
            known(part, str, NoneType)
    return raw


def inside(value: Any, *names: str) -> dict[str, Any]:
    """The object at this path, empty where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def hopeless(error: EngineError) -> bool:
    """Whether a new try would end the same. A 404 need not: one replica may not have seen a new adapter yet."""
    return isinstance(error, EngineRefused) and error.status != 404


def as_json(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {"Content-Type": "application/json", **(headers or {})}


def parse(content: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise EngineNonsense("the engine answered something that is not JSON") from error
    if not isinstance(value, dict):
        raise EngineNonsense("the engine answered JSON that is not an object")
    return value


def message_of(content: bytes) -> tuple[str, dict[str, Any]]:
    """The message of an error body, which may be vLLM's JSON, a router's plain text or a proxy's page."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace")[:500].strip(), {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    return str(error.get("message") or error.get("detail") or body)[:2000], error


def check(status: int, content: bytes) -> None:
    """Raise the error that a status stands for."""
    if 200 <= status < 300:
        return
    message, error = message_of(content)
    param, code = (error.get(name) if isinstance(error.get(name), str) else None for name in ("param", "code"))
    if status in (429, 503):
        raise EngineUnavailable(f"the engine is busy or down ({status}): {message}")
    if status >= 500 or status < 400:
        raise EngineNonsense(f"the engine failed ({status}): {message}")
    raise EngineRefused(message, status, param, code)


def in_stream(error: object) -> EngineError:
    """The error that a line of a stream stands for: a dead engine more often than a bad request."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    message, code, param = str(fields.get("message")), fields.get("code"), fields.get("param")
    if isinstance(code, int) and 400 <= code < 500:
        return EngineRefused(message, code, param if isinstance(param, str) else None)
    return EngineUnavailable(f"the engine failed in mid-stream: {message}")


@contextmanager
def translated() -> Iterator[None]:
    """The one place where errors of HTTP become ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise EngineUnavailable(f"the engine cannot be reached: {error}") from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise EngineUnavailable(f"the engine did not answer in time ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise EngineUnavailable(f"the engine cannot be reached: {error or type(error).__name__}") from error
    except aiohttp.ClientError as error:  # what the transport does not translate
        raise EngineNonsense(f"the engine did not answer in HTTP: {error}") from error
