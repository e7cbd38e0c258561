"""The body of a chat completion with a strategy: OpenAI's fields, vLLM's extras, and ours.

The fields that reach the samples are listed, typed and bounded here. Any other is refused with a strategy: the engine
might count it, keep it or answer it in a way that the search does not see.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schema import Strict
from strategies.answers import AnswerType

OURS = frozenset({"strategy", "budget", "answer", "include", "dry_run"})
DECIDED = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "seed", "max_tokens", "max_completion_tokens"}
)
NO_EFFECT = frozenset({"store", "metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier"})
REFUSED = frozenset({"audio", "modalities", "prediction", "web_search_options", "background"})
"""The last would generate when nobody waits any more, and nobody would pay."""

STEERING = frozenset({"priority", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "stream_interval"})
"""Fields that steer the engine for everyone: for admins only."""

MANY = 1024
"""Strings that end or forbid a text: the engine looks for each of them at every token."""

Include = Literal["candidates", "progress", "reasoning"]


class BudgetSpec(Strict):
    """`tokens` to generate, by policy and scorer together; `seconds` from the start of the request."""

    tokens: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)


class AnswerSpec(Strict):
    """How final answers are read and compared; a pattern is compiled only in a process that can be killed."""

    type: AnswerType = "math"
    pattern: str | None = Field(None, min_length=1, max_length=1000)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """A chat completion. Fields that are not named here pass through to vLLM, and are refused with a strategy."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    strategy: str | dict[str, Any] | None = None
    budget: BudgetSpec | None = None
    answer: AnswerSpec | None = None
    include: list[Include] = Field(default_factory=list)
    dry_run: bool = False

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    repetition_penalty: float | None = Field(None, gt=0)
    length_penalty: float | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stop: str | Annotated[list[str], Field(max_length=MANY)] | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=MANY)
    include_stop_str_in_output: bool | None = None
    bad_words: list[str] | None = Field(None, max_length=MANY)
    allowed_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    repetition_detection: dict[str, Any] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=2**63)
    truncation_side: Literal["left", "right"] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: int | None = Field(None, ge=-1)
    include_reasoning: bool | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)


WITH_STRATEGY = frozenset(ChatRequest.model_fields) | NO_EFFECT | (STEERING - {"stream_interval"})
"""All fields that a request with a strategy may have; how many tokens an event has is the strategy's to decide."""
