"""Messages to token ids, and which of those tokens the loss is on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from strategies.types import plain_text
from training.errors import TrainingError

IGNORED = -100
"""Of a token that the loss is not on, as PyTorch has it."""

Message = Mapping[str, Any]


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> list[int]: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence and its labels, one a token; the trainer shifts them."""

    input_ids: list[int]
    labels: list[int]

    def cut(self, length: int) -> Example:
        return Example(self.input_ids[:length], self.labels[:length])

    @property
    def teaches(self) -> bool:
        return any(label != IGNORED for label in self.labels)


def render(tokenizer: Tokenizer, messages: Sequence[Message], tools: Any = None, *, answer: bool = False) -> list[int]:
    """The ids of a conversation under the model's own template; with `answer`, ready to be answered."""
    try:
        return tokenizer.apply_chat_template(
            [readable(message) for message in messages],
            tools=tools,
            add_generation_prompt=answer,
            tokenize=True,
            return_dict=False,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"the model's chat template cannot render a conversation: {error}") from error


def hides(tokenizer: Tokenizer, tools: Any) -> bool:
    """Whether the model's own template leaves tools out, as those of models that were not taught to call any do."""
    asked = [{"role": "user", "content": "?"}]
    return render(tokenizer, asked, tools, answer=True) == render(tokenizer, asked, answer=True)


def readable(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it: text for content, objects for the arguments of tool calls."""
    kept = {name: value for name, value in message.items() if name != "weight"}
    if not isinstance(kept.get("content"), str):
        kept["content"] = plain_text(kept.get("content"))
    if calls := kept.get("tool_calls"):
        kept["tool_calls"] = [
            call | {"function": call["function"] | {"arguments": parse_arguments(call["function"]["arguments"])}}
            for call in calls
        ]
    return kept


def parse_arguments(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return arguments


def examples(tokenizer: Tokenizer, messages: Sequence[Message], tools: Any = None) -> list[Example]:
    """Sequences in which the loss is on the assistant's messages, except those of weight 0.

    One sequence, where the template renders every turn as it rendered it when it was the last; templates that drop the
    reasoning of earlier turns make several.
    """
    found: list[Example] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight", 1) == 0:
            continue
        prompt = render(tokenizer, messages[:i], tools, answer=True)
        whole = render(tokenizer, messages[: i + 1], tools)
        start = shared(prompt, whole)
        if found and whole[: len(found[-1].input_ids)] == found[-1].input_ids:
            before = found.pop().labels
            start = max(start, len(before))
        else:
            before = []
        found.append(Example(whole, before + [IGNORED] * (start - len(before)) + whole[start:]))
    return found


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginnings."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
