"""The body of a request without a strategy. It is vLLM's to check, but for what says how much it may cost.

vLLM takes `"4"` and `4.0` for 4: here a number that bounds the cost is a number, or the request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import invalid
from service.wire.chat import StreamOptions
from strategies.types import plain_text

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
GENERATING = frozenset({CHAT, COMPLETIONS, RESPONSES})

CHARACTERS = 4
"""Of a token, about; the engine's own count replaces the estimate when the request has ended."""

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that has none, as OpenAI and vLLM have it."""

ITEM_TEXTS = ("text", "content", "output", "arguments", "summary")
"""Where an item of `input` in /v1/responses has what the model reads."""


class PlainRequest(BaseModel):
    """What of a plain request is read here."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    n: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=0)
    max_output_tokens: int | None = Field(None, ge=0)
    logprobs: bool | int | None = None
    top_logprobs: int | None = Field(None, ge=0)
    prompt_logprobs: int | None = Field(None, ge=0)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    messages: Any = None
    prompt: Any = None
    prompt_embeds: Any = None
    input: Any = None
    instructions: Any = None

    @property
    def prompts(self) -> int:
        """How many prompts a completion answers."""
        return max(len(as_prompts(self.prompt)) + len(as_prompts(self.prompt_embeds)), 1)

    @property
    def samples(self) -> int:
        return max(self.n or 1, self.best_of or 1)

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens are read, each prompt once."""
        texts = sum(map(item_characters, (self.input, self.instructions)))
        prompts = sum(map(prompt_tokens, as_prompts(self.prompt)))
        return conversation_tokens(self.conversation) + prompts + texts // CHARACTERS

    @property
    def longest_text(self) -> int:
        """Characters of the longest text that the engine has to tokenize at once."""
        inputs = self.input if isinstance(self.input, list) else [self.input]
        texts = [text for text in (*as_prompts(self.prompt), *inputs) if isinstance(text, str)]
        return max([CHARACTERS * conversation_tokens(self.conversation), *map(len, texts)])

    @property
    def conversation(self) -> list[Mapping[str, Any]]:
        """The messages, as far as they are any."""
        return [m for m in self.messages if isinstance(m, Mapping)] if isinstance(self.messages, list) else []

    def bound(self, path: str) -> int | None:
        """The most tokens of one answer, as far as the request says; None: what the context has room for."""
        match path:
            case "/v1/completions":
                return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
            case "/v1/responses":
                return self.max_output_tokens
            case _:
                return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def logprobs_a_token(self) -> int:
        """How many log-probabilities come with a token: its own and the most likely ones."""
        top = self.top_logprobs if isinstance(self.logprobs, bool) else self.logprobs
        return 1 + (top or 0) if self.logprobs not in (None, False) else 0


def parse_plain(body: Mapping[str, Any]) -> PlainRequest:
    """Raise ApiError for a number that is none."""
    try:
        return PlainRequest.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error


def as_prompts(value: object) -> Sequence[object]:
    """The prompts of a completion: a text, a list of texts, a list of token ids, or a list of such lists."""
    if not isinstance(value, list):
        return [] if value is None else [value]
    return [value] if value and all(isinstance(token, int) for token in value) else value


def prompt_tokens(prompt: object) -> int:
    return len(prompt) if isinstance(prompt, list) else len(prompt) // CHARACTERS if isinstance(prompt, str) else 0


def conversation_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """About how many tokens a conversation has."""
    return sum(len(plain_text(message.get("content"))) for message in messages) // CHARACTERS


def item_characters(value: object) -> int:
    """Of an input of /v1/responses or /v1/embeddings; a token id in a list of them counts as a token."""
    match value:
        case str():
            return len(value)
        case int():
            return CHARACTERS
        case list():
            return sum(map(item_characters, value))
        case dict():
            return sum(item_characters(value.get(name)) for name in ITEM_TEXTS)
    return 0
