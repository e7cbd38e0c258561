"""What is sent to vLLM: the bodies of its chat completions and of its completions of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strategies.types import Call, Chat, Ids

STREAM_INTERVAL = 16
"""Tokens an event: at a GPU's speed an event for every token would cost more than the service may."""


TOP_LOGPROBS = 20
"""The most that a vLLM allows unless told otherwise; also the plain way to label probabilities (see `extend_body`)."""


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
