"""A plain reply that is not streamed to the client, put together from a stream of vLLM's.

Only a stream tells what was generated for a client that left. What comes of it has the fields and the values of vLLM's
own whole reply (vLLM 0.32). A request with a field that a stream may answer differently is not made one (`STREAMABLE`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import orjson

from service.engines.vllm.errors import inside, require
from service.wire.plain import CHAT, COMPLETIONS

SAMPLING = frozenset(
    {
        *("model", "n", "max_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "min_tokens", "ignore_eos"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs", "stop", "user"),
        *("stop_token_ids", "include_stop_str_in_output", "skip_special_tokens", "bad_words", "allowed_token_ids"),
        *("spaces_between_special_tokens", "stream", "priority", "cache_salt", "add_special_tokens"),
        *("response_format", "structured_outputs"),
    }
)
STREAMABLE: Mapping[str, frozenset[str]] = {
    CHAT: SAMPLING
    | {"messages", "max_completion_tokens", "top_logprobs", "store", "metadata", "safety_identifier"}
    | {"prompt_cache_key", "reasoning_effort", "chat_template_kwargs", "chat_template", "documents"},
    COMPLETIONS: SAMPLING | {"prompt"},
}
"""By endpoint, the fields under which a whole reply and a streamed one say the same."""

HEADS = ("id", "created", "model")
DETAILS: Mapping[str, None] = dict.fromkeys(("cached_tokens", "created_cache_tokens", "multimodal_tokens"))
UNSAID: Mapping[str, None] = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
"""Of a message, what is null unless it was said; vLLM writes it out."""
AFTER_USAGE: Mapping[str, Mapping[str, None]] = {
    CHAT: dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text")),
    COMPLETIONS: {},
}
AFTER_CHOICE: Mapping[str, Mapping[str, None]] = {
    CHAT: dict.fromkeys(("token_ids", "routed_experts")),
    COMPLETIONS: dict.fromkeys(("token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")),
}


def streamable(path: str, body: Mapping[str, Any]) -> bool:
    """Whether a request that wants a whole reply may be asked for as a stream."""
    return all(value is None or name in STREAMABLE.get(path, ()) for name, value in body.items())


@dataclass(slots=True)
class Choice:
    """One answer as it comes. Log-probabilities are kept as written: as objects they take six times as much."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: dict[str, list[bytes]] = field(default_factory=dict)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def take(self, choice: Mapping[str, Any]) -> None:
        delta = require(choice.get("delta") or {}, dict)
        self.text.append(require(choice.get("text") or delta.get("content") or "", str))
        self.reasoning.append(require(delta.get("reasoning") or delta.get("reasoning_content") or "", str))
        for name, column in require(choice.get("logprobs") or {}, dict).items():
            if column:
                self.logprobs.setdefault(name, []).append(orjson.dumps(require(column, list))[1:-1])
        self.finish_reason = require(choice.get("finish_reason"), str, NoneType) or self.finish_reason
        stop = require(choice.get("stop_reason"), str, int, NoneType)
        self.stop_reason = self.stop_reason if stop is None else stop

    def body(self, index: int, path: str) -> dict[str, Any]:
        return {
            "index": index,
            **({"text": "".join(self.text)} if path == COMPLETIONS else {"message": self.message}),
            "logprobs": {name: orjson.Fragment(b"[%b]" % b",".join(said)) for name, said in self.logprobs.items()}
            or None,
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            **AFTER_CHOICE[path],
        }

    @property
    def message(self) -> dict[str, Any]:
        text, reasoning = "".join(self.text), "".join(self.reasoning) or None
        content = text if text or reasoning is None else None
        return {"role": "assistant", "content": content, **UNSAID, "reasoning": reasoning}


class WholeReply:
    """Gathers the events of one stream."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.choices: dict[int, Choice] = {}
        self.head: dict[str, Any] = {}
        self.last: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        self.head = self.head or {name: event.get(name) for name in HEADS}
        for choice in event.get("choices") or ():
            self.choices.setdefault(require(choice["index"], int), Choice()).take(choice)
        if not event.get("choices"):
            self.last = event

    def complete(self, branches: int) -> bool:
        """Whether this many answers came and all have ended."""
        return self.choices.keys() == set(range(branches)) and all(c.finish_reason for c in self.choices.values())

    def dumps(self, counted: Mapping[str, Any]) -> bytes:
        """The reply as JSON. `counted` is the usage where the engine does not say it last, as some routers."""
        last = self.last
        body = {
            "id": self.head["id"],
            "object": "chat.completion" if self.path == CHAT else "text_completion",
            "created": self.head["created"],
            "model": self.head["model"],
            "choices": [choice.body(index, self.path) for index, choice in sorted(self.choices.items())],
            "service_tier": None,
            "system_fingerprint": last.get("system_fingerprint"),
            "usage": whole_usage(inside(last, "usage") or counted),
            **AFTER_USAGE[self.path],
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": last.get("metrics"),
        }
        return orjson.dumps(body)


def whole_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    details = usage.get("prompt_tokens_details")
    spelled = {**DETAILS, **details} if isinstance(details, dict) else None
    return {
        **{name: usage.get(name) for name in ("prompt_tokens", "total_tokens", "completion_tokens")},
        "prompt_tokens_details": spelled,
        "completion_tokens_details": usage.get("completion_tokens_details"),
    }
