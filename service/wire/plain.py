"""The body of a request without a strategy. It is vLLM's to check, but for what says how much it may cost.

vLLM takes `"4"` and `4.0` for 4: here a number that bounds the cost is a number, or the request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import invalid
from service.wire.chat import StreamOptions
from service.wire.lengths import characters, tokens_about, without_media

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
GENERATING = frozenset({CHAT, COMPLETIONS, RESPONSES})

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that says nothing of it, as OpenAI and vLLM have it; null is the rest of the context."""


class PlainRequest(BaseModel):
    """What of a plain request is read here."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    n: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=0)
    max_output_tokens: int | None = Field(None, ge=0)
    logprobs: bool | Annotated[int, Field(ge=0)] | None = None
    top_logprobs: int | None = Field(None, ge=0)
    prompt_logprobs: int | None = Field(None, ge=0)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    messages: Any = None
    tools: Any = None
    documents: Any = None
    chat_template_kwargs: Any = None
    prompt: Any = None
    suffix: Any = None
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
    def texts(self) -> list[object]:
        """What is read, a prompt each: those of a completion, of an embedding, or the one conversation."""
        told = [self.tools, self.documents, self.chat_template_kwargs, self.instructions, self.suffix]
        conversation = [without_media(self.messages), *told]
        inputs = as_prompts(self.input)
        if any(isinstance(item, Mapping) for item in inputs):
            conversation, inputs = [*conversation, without_media(inputs)], []
        found = [*as_prompts(self.prompt), *inputs]
        return [*found, conversation] if any(part is not None for part in conversation) else found

    @property
    def prompt_tokens(self) -> list[int]:
        """About how many tokens each prompt has."""
        return [tokens_about(text) for text in self.texts]

    @property
    def longest_text(self) -> int:
        """Characters of the longest text that the engine has to tokenize at once."""
        return max(map(characters, self.texts), default=0)

    def bound(self, path: str) -> int | None:
        """The most tokens of one answer, as far as the request says; None: what the context has room for."""
        match path:
            case "/v1/completions":
                return self.max_tokens if "max_tokens" in self.model_fields_set else COMPLETION_TOKENS
            case "/v1/responses":
                return self.max_output_tokens
            case _:
                return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def logprobs_a_token(self, path: str) -> int:
        """How many log-probabilities come with a token: its own and the most likely ones."""
        match path, self.logprobs:
            case "/v1/responses", _:
                return 1 + self.top_logprobs if self.top_logprobs else 0
            case "/v1/completions", None:
                return 0
            case "/v1/completions", most:
                return 1 + int(most or 0)
            case _, wanted:
                return 1 + (self.top_logprobs or 0) if wanted else 0


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
