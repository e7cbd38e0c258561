"""Asking a served model, for graders: over HTTP from anywhere; inside the service see `service.background.judges`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from strategies.errors import EngineNonsense, EngineRefused, EngineUnavailable

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int = 0


class Ask(Protocol):
    async def __call__(self, model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
        """One answer of a model; raise EngineError when there is none to be had."""


@dataclass(frozen=True, slots=True)
class HttpAsk:
    """Asks any OpenAI-compatible server; `client` has its base URL, with `/v1`, its key and its time-outs."""

    client: httpx.AsyncClient

    async def __call__(self, model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
        try:
            response = await self.client.post(
                "chat/completions", json={"model": model, "messages": list(messages), **fields}
            )
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"no answer from {self.client.base_url}: {error}") from error
        if response.status_code >= 500 or response.status_code == 429:
            raise EngineUnavailable(f"{self.client.base_url} answered {response.status_code}")
        if response.status_code != 200:
            raise EngineRefused(response.text[:500], response.status_code)
        try:
            body = response.json()
            return Answer(body["choices"][0]["message"]["content"] or "", body["usage"]["completion_tokens"])
        except (ValueError, LookupError, TypeError) as error:
            raise EngineNonsense(f"{self.client.base_url} answered without a completion") from error
