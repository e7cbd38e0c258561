"""One generation in the making: what the engine streams for it is gathered here."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from strategies.logprobs import Logprobs
from strategies.types import Delta, Generation

Confidence = Callable[[Mapping[str, Any]], float | None]


class Branch:
    """One generation in the making. Of its log-probabilities are kept those that there is a place for, `logprobs`, and
    of every token the one number that `confidence` reads of them."""

    def __init__(self, logprobs: Logprobs | None = None, confidence: Confidence | None = None) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.tools: dict[int, dict[str, Any]] = {}
        self.logprobs = logprobs
        self.confidence = confidence
        self.confidences = array("f")
        self.ids: list[int] = []
        self.tokens = 0
        self.failed = False
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def take(self, delta: Delta) -> int:
        """Append what came and return how many tokens that were."""
        self.text.append(delta.text)
        self.take_logprobs(delta.logprobs)
        self.ids.extend(delta.ids)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop_reason = delta.stop_reason if delta.stop_reason is not None else self.stop_reason
        if delta.raw:
            self.reasoning.append(delta.raw.get("reasoning") or delta.raw.get("reasoning_content") or "")
            for call in delta.raw.get("tool_calls") or ():
                self.take_tool(call)
        gained = max(delta.total - self.tokens, 0)
        self.tokens += gained
        return gained

    def take_logprobs(self, entries: Iterable[Mapping[str, Any]]) -> None:
        for entry in entries:
            if self.logprobs is not None:
                self.logprobs.append(entry)
            if self.confidence is not None and (value := self.confidence(entry)) is not None:
                self.confidences.append(value)

    def take_tool(self, call: dict[str, Any]) -> None:
        """Merge a piece of a tool call, as OpenAI streams them: by index, arguments in fragments."""
        slot = self.tools.setdefault(call.get("index", 0), {"id": None, "type": "function", "function": {}})
        slot["id"] = slot["id"] or call.get("id")
        function = call.get("function") or {}
        if function.get("name"):
            slot["function"]["name"] = function["name"]
        slot["function"]["arguments"] = slot["function"].get("arguments", "") + (function.get("arguments") or "")

    def generation(self) -> Generation:
        text = "".join(self.text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning := "".join(self.reasoning):
            message["reasoning"] = reasoning
        if self.tools:
            message["tool_calls"] = [self.tools[index] for index in sorted(self.tools)]
            message["content"] = text or None
        finish = self.finish_reason or "length"  # a branch that the budget or a fault ended is cut
        logprobs = () if self.logprobs is None else self.logprobs
        ids = tuple(self.ids)
        return Generation(text, self.tokens, finish, self.stop_reason, message, logprobs, ids, self.confidences)
