"""The body of a chat completion with a strategy: OpenAI's fields, vLLM's extras, and ours.

The known fields are typed and bounded here, so that nothing bad reaches the engine; unknown ones go to vLLM as they
are.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schema import Strict
from strategies.answers import AnswerType

OURS = frozenset({"strategy", "budget", "answer", "include", "dry_run"})
DECIDED = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "seed", "max_tokens", "max_completion_tokens"}
)
NO_EFFECT = frozenset({"store", "metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier"})
REFUSED = frozenset({"audio", "modalities", "prediction", "web_search_options"})
STEERING = frozenset({"priority", "kv_transfer_params", "ec_transfer_params", "vllm_xargs"})
"""Fields that steer the engine for everyone: for admins only."""

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


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """A chat completion. Fields that are not named here are vLLM's to check."""

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
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
