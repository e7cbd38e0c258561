"""One run's view of a vLLM, bound to a model and a session id; implements the `Engine` protocol.

Retried is what has generated nothing yet: a connection that failed, 5xx, 429, a stream cut before its first token. Once
tokens are out a new try would be billed twice, so the branches that finished are kept and the rest is reported as
failed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.engines.backend import Serving
from service.engines.vllm.bodies import extend_body, sample_body
from service.engines.vllm.client import soon
from service.engines.vllm.errors import hopeless, parsing, require, token_ids
from service.engines.vllm.stream import ReplyStream
from service.wire.lengths import characters, without_media
from strategies.errors import EngineError
from strategies.types import Batch, Call, Chat, Ids

log = logging.getLogger(__name__)

PRIORITY = "X-Vllm-Priority"


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """One run's engine: a model and who serves it.

    Every call carries the run's session id, which routers use to keep a search on the replica that has its prefixes;
    its salt of the prefix cache; and its priority unless an admin chose one: lower is earlier, and an engine that
    serves in order of arrival ignores it.
    """

    backends: Serving
    model: str
    session_id: str
    salt: str = ""
    priority: int = 0

    async def context(self, model: str | None = None) -> int:
        name = model or self.model
        backend = await self.backends.serving(name)
        contexts = backend.client.contexts
        if name not in contexts:
            await backend.list_models()
        if name not in contexts:  # behind some routers only the tokenizer says
            async with soon():
                contexts[name] = (await self._tokenize({"prompt": "", "model": name}))["max_model_len"]
        return contexts[name]

    async def render(self, chat: Chat, model: str | None = None) -> Ids:
        kept = ("tools", "chat_template_kwargs", "chat_template", "documents", "add_generation_prompt")
        options = {name: chat.fields[name] for name in kept if name in chat.fields}
        return await self._tokens({**options, "messages": chat.messages, "model": model or self.model})

    async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> Ids:
        return await self._tokens({"prompt": text, "add_special_tokens": special, "model": model or self.model})

    async def detokenize(self, ids: Ids, model: str | None = None) -> str:
        body = {"tokens": ids, "model": model or self.model}
        told = await self._json("/detokenize", body)
        with parsing("a text"):
            return str(require(told["prompt"], str))

    async def _tokens(self, body: Mapping[str, Any]) -> Ids:
        ids: Ids = (await self._tokenize(body))["tokens"]
        return ids

    async def _tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        told = await self._json("/tokenize", body)
        with parsing("tokens"):
            return {"tokens": token_ids(told["tokens"]), "max_model_len": require(told["max_model_len"], int)}

    async def _json(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        backend = await self.backends.serving(body["model"])
        backend.client.check_length(body["model"], prompt_characters(body))
        with backend.request() as client:
            return await client.json("POST", path, body, self.headers)

    async def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        body = self.salted(sample_body(chat, call, self.model))
        async for batch in self._stream("/v1/chat/completions", body, call.n, None):
            yield batch

    async def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        prompt = call.n * sum(map(len, prefixes))
        body = self.salted(extend_body(prefixes, call, self.model))
        async for batch in self._stream("/v1/completions", body, call.n * len(prefixes), prompt):
            yield batch

    def salted(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "cache_salt": self.salt} if self.salt else body

    @property
    def headers(self) -> dict[str, str]:
        request_id = f"{self.session_id}-{random.getrandbits(32):08x}"
        return {"X-Session-ID": self.session_id, "X-Request-Id": request_id}

    async def _stream(
        self, path: str, body: Mapping[str, Any], branches: int, prompt: int | None
    ) -> AsyncGenerator[Batch]:
        """Stream one call, trying again while nothing was generated."""
        backend = await self.backends.serving(body["model"])
        backend.client.check_length(body["model"], prompt_characters(body))
        chosen = {} if "priority" in body else {PRIORITY: str(self.priority)}
        async for last in backend.client.attempts():
            reply = ReplyStream(branches, int(body["n"]), prompt)
            try:
                with backend.request() as client:
                    async for events in client.events(path, body, self.headers | chosen):
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


def prompt_characters(body: Mapping[str, Any]) -> int:
    """Of the text that the engine has to tokenize for a request; token ids are that already."""
    prompt = body.get("prompt")
    read = [body.get(name) for name in ("tools", "documents", "chat_template_kwargs")]
    return characters([prompt if isinstance(prompt, str) else None, without_media(body.get("messages")), *read])
