"""Tool calls in what a model said, for graders.

Rollouts are tokens, and every family of models writes its calls in another way. A tokenizer may bring the template by
which they are read; TRL knows those of many families.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import add_response_schema, parse_response

from service.graders import Sample
from training.errors import TrainingError


def prepare(tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a tokenizer ready to read calls; raise TrainingError for a model whose way of writing them is not known."""
    if getattr(tokenizer, "response_template", None) is not None:
        return
    try:
        add_response_schema(tokenizer)
    except ValueError as error:
        raise TrainingError(
            "it is not known how this model writes tool calls: leave tools out of the rows, or take a model whose "
            "tokenizer has a response_template",
            "training_file",
        ) from error


def sample(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int], tools: Any) -> Sample:
    """An answer to a prompt with tools: its calls, in OpenAI's shape, apart from its text. What is no call is text."""
    said = parse_response(tokenizer, list(ids), prefix=list(prompt), tools=tools)
    calls = said.get("tool_calls") or ()
    return Sample(said["content"], [openais(f"call_{number}", call) for number, call in enumerate(calls)])


def openais(name: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as chat completions have it, its arguments written out."""
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": written}}
