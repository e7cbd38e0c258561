"""An engine that is a function: for tests, examples and demonstrations, with the same protocol as vLLM.

It streams, counts and can be cut off like the real one. Tokens are words with the space before them, so that a text is
the concatenation of its tokens and ids can be turned back into text.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from strategies.errors import EngineError
from strategies.types import Batch, Call, Chat, Delta, Ids, plain_text

WORD = re.compile(r"\s*\S+|\s+$")
INTERVAL = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What the script says: a text, and how it ends."""

    text: str = ""
    finish_reason: str = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)  # tool_calls, reasoning
    logprob: float = -0.1
    labels: Mapping[str, float] = field(default_factory=dict)  # log-probabilities of label tokens, by text
    error: EngineError | None = None  # raised in place of the end of the reply
    stop_reason: str | None = None


Script = Callable[[str, int], Reply | str]
"""From the text of a prompt and the number of the branch to what the model says."""


async def no_pause() -> None:
    """Pause nothing."""


@dataclass(slots=True)
class ScriptedEngine:
    """Streams the script's replies, `interval` tokens an event, awaiting `pause` before each.

    `calls` keeps what was asked; `open_streams` is how many streams are not closed yet.
    """

    script: Script
    pause: Callable[[], Awaitable[None]] = no_pause
    length: int = 4096
    interval: int = INTERVAL
    calls: list[tuple[Any, Call]] = field(default_factory=list)
    open_streams: int = 0
    generated: int = 0
    words: dict[str, int] = field(default_factory=dict)
    spellings: list[str] = field(default_factory=list)

    def __call__(self, model: str, session_id: str, salt: str = "", priority: int = 0) -> ScriptedEngine:
        return self

    async def context(self, model: str | None = None) -> int:
        return self.length

    async def render(self, chat: Chat, model: str | None = None) -> Ids:
        return self.ids(render_plainly(chat))

    async def tokenize(self, text: str, model: str | None = None, special: bool = False) -> Ids:
        return self.ids(text)

    async def detokenize(self, ids: Ids, model: str | None = None) -> str:
        return self.text(ids)

    def ids(self, text: str) -> Ids:
        return tuple(self.words.setdefault(word, len(self.words)) for word in WORD.findall(text))

    def text(self, ids: Ids) -> str:
        if len(self.spellings) < len(self.words):
            self.spellings = list(self.words)  # in the order of their numbers
        return "".join(self.spellings[number] for number in ids)

    def sample(self, chat: Chat, call: Call) -> AsyncGenerator[Batch]:
        self.calls.append((chat, call))
        return self.stream(
            [render_plainly(chat)], replace(call, max_tokens=call.max_tokens or chat.fields.get("max_tokens"))
        )

    def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        self.calls.append((prefixes, call))
        return self.stream([self.text(prefix) for prefix in prefixes], call)

    async def stream(self, prompts: Sequence[str], call: Call) -> AsyncGenerator[Batch]:
        self.open_streams += 1
        try:
            replies = [
                cut_at_stop(as_reply(self.script(prompts[i // call.n], i)), call.stop)
                for i in range(call.n * len(prompts))
            ]
            pieces = [self.pieces(reply, call) for reply in replies]
            prompt: int | None = call.n * sum(len(self.ids(text)) for text in prompts)
            for position in range(max(map(len, pieces))):
                await self.pause()
                deltas = [self.delta(i, replies[i], pieces[i], position, call) for i in range(len(pieces))]
                kept = tuple(delta for delta in deltas if delta is not None)
                self.generated += sum(len(delta.ids) for delta in kept)
                yield Batch(kept, prompt, 0)
                prompt = None
            for reply in replies:
                if reply.error:
                    raise reply.error
        finally:
            self.open_streams -= 1

    def pieces(self, reply: Reply, call: Call) -> list[list[str]]:
        """The words of a reply, cut at `max_tokens`, in events."""
        words = WORD.findall(reply.text)[: call.max_tokens] or [""]
        size = 1 if call.each_token else self.interval
        return [words[i : i + size] for i in range(0, len(words), size)]

    def delta(self, index: int, reply: Reply, pieces: list[list[str]], position: int, call: Call) -> Delta | None:
        if position >= len(pieces):
            return None
        words = pieces[position]
        last = position == len(pieces) - 1
        whole = call.max_tokens is None or len(WORD.findall(reply.text)) <= call.max_tokens
        finish = (reply.finish_reason if whole else "length") if last and not reply.error else None
        return Delta(
            index,
            "".join(words),
            max(sum(map(len, pieces[: position + 1])), 1),
            finish,
            reply.stop_reason if finish == "stop" else None,
            raw={"content": "".join(words), **(reply.message if last else {})},
            logprobs=tuple(self.logprob(word, reply, call) for word in words) if wants_logprobs(call) else (),
            ids=tuple(self.words.setdefault(word, len(self.words)) for word in words),
        )

    def logprob(self, word: str, reply: Reply, call: Call) -> Mapping[str, Any]:
        if call.label_ids:
            labels = {f"token_id:{self.words[label]}": p for label, p in reply.labels.items()}
        else:
            labels = {f"{word}#{rank}": reply.logprob - rank for rank in range(call.logprobs or 0)}
        top = [{"token": token, "logprob": p} for token, p in labels.items()]
        return {"token": word, "logprob": reply.logprob, "top_logprobs": top}


def cut_at_stop(reply: Reply, stops: Sequence[str]) -> Reply:
    """The reply up to and with the first stop string."""
    found = [(reply.text.find(stop), stop) for stop in stops if stop in reply.text]
    if not found:
        return reply
    at, stop = min(found)
    return replace(reply, text=reply.text[: at + len(stop)], finish_reason="stop", stop_reason=stop, error=None)


def as_reply(said: Reply | str) -> Reply:
    return Reply(said) if isinstance(said, str) else said


def render_plainly(chat: Chat) -> str:
    """The conversation under the plainest of chat templates."""
    return "\n".join(f"{message['role']}: {plain_text(message.get('content'))}" for message in chat.messages)


def wants_logprobs(call: Call) -> bool:
    return call.logprobs is not None or bool(call.label_ids)
