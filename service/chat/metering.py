"""What a plain request costs, counted as its reply passes: vLLM is always asked for its usage, with every event.

A key pays for the tokens of its prompts, each once, and for all that were generated, also when the client has left:
what the events said of each branch until then. (vLLM may have made a few more before it noticed.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from service.engines.vllm.errors import in_stream, inside, parse
from service.web.rate_limits import Spending
from service.wire.chat import StreamOptions
from service.wire.plain import CHAT, COMPLETIONS
from strategies.errors import EngineError, EngineNonsense

ASKED_FOR_USAGE = frozenset({CHAT, COMPLETIONS})
"""The endpoints that have `stream_options`; a stream of responses says its usage at the end by itself."""
USAGE = {"include_usage": True, "continuous_usage_stats": True}


class Meter:
    """The tokens of one reply, written to the key's account with every event.

    `prompts` are the estimates of the prompts, each of which `samples` answers share, until the engine says how long
    they are.
    """

    def __init__(self, spending: Spending, samples: int, prompts: Sequence[int]) -> None:
        self.spending = spending
        self.samples = samples
        self.prompts = dict(enumerate(prompts))
        self.completions: dict[int, int] = {}
        self.generated = 0
        self.settled = False  # whether the engine has said what the whole reply took
        self.write()

    def write(self) -> None:
        self.spending.tokens = sum(self.prompts.values()) + self.generated

    def take(self, event: Mapping[str, Any]) -> None:
        """Count one event of a stream."""
        usage, choices = usage_of(event), event.get("choices")
        if isinstance(choices, list) and choices:
            for choice in choices:
                self._take_choice(choice if isinstance(choice, dict) else {}, usage)
        elif usage:
            self.settle(usage)
        elif str(event.get("type")).endswith(".delta"):
            self._add(0, 1)
        self.write()

    @property
    def usage(self) -> dict[str, int]:
        """As OpenAI writes it."""
        prompt = self.spending.tokens - self.generated
        return {"prompt_tokens": prompt, "total_tokens": self.spending.tokens, "completion_tokens": self.generated}

    def _take_choice(self, choice: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        """The usage of an event is that of its one choice; of an engine that says none, an event is a token."""
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if not usage:
            self._add(index, 1)
            return
        self.prompts[index // self.samples] = count(usage, "prompt_tokens")
        self._add(index, max(count(usage, "completion_tokens") - self.completions.get(index, 0), 0))

    def _add(self, index: int, tokens: int) -> None:
        self.completions[index] = self.completions.get(index, 0) + tokens
        self.generated += tokens

    def settle(self, usage: Mapping[str, Any]) -> None:
        """What is said of the whole reply stands for all that was counted before."""
        total = count(usage, "total_tokens")
        self.generated = count(usage, "completion_tokens") or count(usage, "output_tokens")
        self.prompts = {0: max(total - self.generated, 0)}
        self.settled = True
        self.write()


def usage_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """What a reply, or an event of a stream, says of its tokens; empty when it says nothing."""
    return inside(event, "usage") or inside(event, "response", "usage")


def count(usage: Mapping[str, Any], what: str) -> int:
    """A number of tokens; what is not one counts nothing."""
    value = usage.get(what)
    return value if isinstance(value, int) and value > 0 else 0


class MeteredEvents:
    """Counts the events of a stream as they pass, and takes out the usage that the client did not ask for.

    `options` are the client's own; None where the endpoint has none, and nothing is taken out. `fault` is the error
    that the stream ended with, and `ended` says whether its last event came.
    """

    def __init__(self, meter: Meter, options: StreamOptions | None) -> None:
        self.meter = meter
        self.options = options
        self.ended = False
        self.fault: EngineError | None = None

    def take(self, events: Sequence[bytes]) -> bytes:
        """What the client gets of them, up to the first that is an error."""
        passed: list[bytes] = []
        for event in events:
            try:
                passed.append(self._take(event))
            except EngineError as error:
                self.fault = error
                break
        return b"".join(passed)

    def _take(self, event: bytes) -> bytes:
        named = not event.startswith(b"data: ")  # as those of /v1/responses: `event: …` on the line before
        data = event.partition(b"\ndata: ")[2] if named else event[6:]
        self.ended = self.ended or data == b"[DONE]"
        said = parse_if_object(data)
        if not named:
            raise_error(said)
        self.meter.take(said)
        if self._wanted(said):
            return event + b"\n\n"
        reduced = {name: value for name, value in said.items() if name != "usage"}
        return b"data: %b\n\n" % orjson.dumps(reduced) if said.get("choices") else b""

    def _wanted(self, event: Mapping[str, Any]) -> bool:
        if self.options is None or event.get("usage") is None:
            return True
        if not self.options.include_usage:
            return False
        return bool(self.options.continuous_usage_stats) or not event.get("choices")


def parse_if_object(data: bytes) -> dict[str, Any]:
    """Empty for what is none: vLLM's bytes are the client's, also where they are garbage."""
    try:
        return parse(data) if data.startswith(b"{") else {}
    except EngineNonsense:
        return {}


def raise_error(event: Mapping[str, Any]) -> None:
    """Raise the EngineError that an event stands for whose first member is `error`."""
    if next(iter(event), None) == "error":
        raise in_stream(event["error"])
