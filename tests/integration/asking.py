"""What the tests ask, and how they read what they are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.chat import ChatCompletionFunctionToolParam as Tool
from pydantic import BaseModel

MODEL = "smollm2"
CITIES = ("Paris", "Rome")

ENDLESS: dict[str, Any] = {"ignore_eos": True}
"""Keeps generating until max_tokens or the budget says stop."""

WEATHER: Tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": list(CITIES)}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def asked(content: str = "What is 17 + 25? Put the answer in \\boxed{}.") -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": content}]


def strategy(type_: str = "self_consistency", /, **parameters: Any) -> dict[str, Any]:
    """An `extra_body` with a strategy; sampling ones draw 4 unless told otherwise."""
    if type_ != "chain_of_thought":
        parameters = {"samples": 4} | parameters
    return {"strategy": {"type": type_, **parameters}}


def extras(reply: BaseModel) -> dict[str, Any]:
    """The `outthink` key."""
    assert reply.model_extra is not None
    found: dict[str, Any] = reply.model_extra["outthink"]
    return found


def text(completion: ChatCompletion) -> str:
    content = completion.choices[0].message.content
    assert content is not None
    return content


def joined(chunks: Iterable[ChatCompletionChunk], index: int = 0) -> str:
    """The text of one choice of a stream."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def ending(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletionChunk:
    """The last chunk with a reason to finish."""
    return [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason][-1]
