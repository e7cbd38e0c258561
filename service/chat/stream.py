"""A run as server-sent events: OpenAI's chunks, and progress as comments that every client skips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from service.chat import reply
from service.chat.order import Order
from strategies.run import Outcome
from strategies.session import Session
from strategies.types import Batch, Candidate

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes one stream. Choices that were streamed token by token are not repeated at the end."""

    def __init__(self, head: Mapping[str, Any], order: Order, session: Session) -> None:
        self.head = {**head, "object": "chat.completion.chunk"}
        self.order = order
        self.session = session
        self.spoken: set[int] = set()
        self.tokens_streamed = False

    def progress(self) -> bytes:
        """Progress in the form that the request chose; a comment unless it chose one."""
        state = reply.progress(self.session)
        if "progress" in self.order.include:
            return self.chunk([{"index": 0, "delta": {}, "finish_reason": None}], {"progress": state})
        if "reasoning" in self.order.include and not self.tokens_streamed:
            return self.spoken_progress(state)
        return b": " + orjson.dumps(state) + b"\n\n"

    def spoken_progress(self, state: Mapping[str, Any]) -> bytes:
        line = "{rounds} rounds, {finished} answers finished, {live} in the making, {tokens} tokens\n".format(**state)
        delta = self.with_role(0, {"reasoning_content": line, "reasoning": line})
        return self.chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def tokens(self, batch: Batch) -> bytes:
        """Tokens as they were decoded. The reasons to finish wait for the end, where the whole truth is known."""
        self.tokens_streamed = True
        lines = []
        for delta in batch.deltas:
            said = {key: value for key, value in delta.raw.items() if value not in (None, "", [])}
            if not said.keys() - {"role"}:
                continue
            logprobs = {"content": delta.logprobs} if self.order.logprobs and delta.logprobs else None
            choice = {"index": delta.index, "delta": self.with_role(delta.index, said), "logprobs": logprobs}
            lines.append(self.chunk([choice | {"finish_reason": None}]))
        return b"".join(lines)

    def with_role(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        """The first delta of a choice names the role."""
        if index in self.spoken:
            return {key: value for key, value in delta.items() if key != "role"}
        self.spoken.add(index)
        return {"role": "assistant", **delta}

    def end(self, outcome: Outcome, flops: float | None, undecided: int) -> Iterator[bytes]:
        """The winners' text unless it was streamed, the reasons to finish, `outthink` on the last, usage, `[DONE]`."""
        chosen = outcome.round.ranked[: self.order.n]
        for index, candidate in enumerate(chosen):
            if not self.tokens_streamed:
                yield self.whole(index, candidate)
            last = index == len(chosen) - 1
            extra = reply.outthink_object(self.order, self.session, outcome, flops, undecided) if last else None
            finish = {"index": index, "delta": self.with_role(index, {}), "logprobs": None}
            finish["finish_reason"] = reply.finish_reason(candidate.last)
            yield self.chunk([finish | {"stop_reason": candidate.last.stop_reason}], extra)
        if self.order.include_usage:
            yield event({**self.head, "choices": [], "usage": reply.usage(self.session, chosen)})
        yield DONE

    def whole(self, index: int, candidate: Candidate) -> bytes:
        message = {k: v for k, v in reply.message(candidate).items() if v is not None and k != "role"}
        for position, call in enumerate(message.get("tool_calls", ())):
            call["index"] = position
        logprobs = reply.logprobs(candidate.last, self.order)
        choice = {"index": index, "delta": self.with_role(index, message), "logprobs": logprobs, "finish_reason": None}
        return self.chunk([choice])

    def chunk(self, choices: list[dict[str, Any]], extra: Mapping[str, Any] | None = None) -> bytes:
        body = {**self.head, "choices": choices}
        if extra is not None:
            body["outthink"] = extra
        return event(body)


def event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + reply.dumps(body) + b"\n\n"
