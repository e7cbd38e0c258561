"""What vLLM streams: events cut out of the bytes, checked, and turned into batches.

What a complete reply is: every branch has a finish_reason. `[DONE]`, a clean end of file and status 200 prove nothing,
since a replica that dies in mid-stream ends with any of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import NoneType
from typing import Any

from service.engines.vllm.errors import MISSHAPEN, in_stream, parse, require, token_ids
from strategies.errors import EngineError, EngineNonsense, EngineUnavailable
from strategies.types import Batch, Delta

DONE = b"data: [DONE]"


LARGEST_EVENT = 64 * 1024 * 1024
"""Bytes: some times the largest that 1024 samples with 20 log-probabilities at 16 tokens make."""


async def raw_events(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[list[bytes]]:
    """Server-sent events, all that are whole in one list, however the bytes were cut on their way."""
    rest = b""
    async for chunk in chunks:
        *events, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")  # a proxy may write either
        if events:
            yield events
        if len(rest) > LARGEST_EVENT:
            raise EngineNonsense(f"the engine sent an event of more than {LARGEST_EVENT} bytes")


async def split(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[list[bytes]]:
    """The data of server-sent events."""
    async with aclosing(raw_events(chunks)) as batches:
        async for events in batches:
            if said := [event[6:] for event in events if event.startswith(b"data: ") and event != DONE]:
                yield said


class ReplyStream:
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
                    read = require(usage["prompt_tokens"], int) * self.n if self.prompt is None else self.prompt
                    prompt, self.counted = read, True
                if details := usage.get("prompt_tokens_details"):
                    cached = require(details.get("cached_tokens") or 0, int) * self.n
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
        raw = check_delta(choice.get("delta") or {})
        text = require(choice.get("text") or raw.get("content") or "", str)
        finish = require(choice.get("finish_reason"), str, NoneType)
        ids = token_ids(choice.get("token_ids") or ())
        stop = require(choice.get("stop_reason"), str, int, NoneType)
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
        require(one["token"], str)
        require(one["logprob"], float, int)
    return entry


def check_delta(raw: dict[str, Any]) -> dict[str, Any]:
    """The delta of a message, when a whole message can be put together of it."""
    require(raw, dict)
    for name in ("reasoning", "reasoning_content"):
        require(raw.get(name), str, NoneType)
    for call in raw.get("tool_calls") or ():
        require(call.get("index", 0), int)
        function = call.get("function") or {}
        for part in (call.get("id"), function.get("name"), function.get("arguments")):
            require(part, str, NoneType)
    return raw
