"""Chain of thought: zero-shot (Kojima et al., 2022, arXiv:2205.11916), few-shot (Wei et al., 2022, arXiv:2201.11903).

Deviations: the zero-shot instruction is the one that chat models for mathematics are trained on, appended to the last
user message, so that the caller's own system prompt is left alone; the answer is read from the same completion, without
Kojima's second call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from strategies.errors import InvalidParameter
from strategies.knobs import knob
from strategies.seeds import derive
from strategies.select import by_vote
from strategies.session import Session, Strategy
from strategies.types import Call, Chat, Event, Message, Plan, Round, Scorer

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class ChainOfThought(Strategy):
    """Ask for the reasoning before the answer: by an instruction, or by `examples` that show it."""

    type: ClassVar[str] = "chain_of_thought"
    summary: ClassVar[str] = "Ask for step-by-step reasoning, by an instruction or by worked examples."
    paper: ClassVar[str] = "https://arxiv.org/abs/2205.11916"
    cost: ClassVar[str] = "one answer (longer), streamed as it is decoded"

    examples: tuple[dict[Literal["question", "answer"], str], ...] = knob(
        (), "Worked examples whose answers show their reasoning, in place of the instruction.", max_length=64
    )

    def __post_init__(self) -> None:
        for i, example in enumerate(self.examples):
            if example.keys() != {"question", "answer"}:
                raise InvalidParameter(f"strategy.examples[{i}]", "an example has `question` and `answer`")

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        return Plan(1, n, n * max_tokens)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        n = int(session.chat.fields.get("n") or 1)
        call = Call(n, derive(session.seed, self.type), each_token=True)
        drawn: list[Any] = []
        async with aclosing(session.stream(call, self.prompt(session.chat), drawn)) as batches:
            async for batch in batches:
                yield batch
        answers = tuple(await session.read(drawn))
        yield Round(answers, answers, by_vote(answers).votes)  # every sample was asked for: none is dropped

    def prompt(self, chat: Chat) -> Chat:
        """The conversation with the examples before its first user message, or the instruction at its last."""
        users = [i for i, message in enumerate(chat.messages) if message.get("role") == "user"]
        at = users[0] if users else len(chat.messages)
        if self.examples:
            return replace(chat, messages=(*chat.messages[:at], *self.shots(), *chat.messages[at:]))
        if not users:
            return replace(chat, messages=(*chat.messages, {"role": "user", "content": INSTRUCTION}))
        last = users[-1]
        asked = instructed(chat.messages[last])
        return replace(chat, messages=(*chat.messages[:last], asked, *chat.messages[last + 1 :]))

    def shots(self) -> list[Message]:
        return [
            {"role": role, "content": content}
            for example in self.examples
            for role, content in (("user", example["question"]), ("assistant", example["answer"]))
        ]


def instructed(message: Message) -> Message:
    """The message with the instruction behind its text, whether that is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": f"{content}\n\n{INSTRUCTION}"}
    return {**message, "content": [*(content or ()), {"type": "text", "text": INSTRUCTION}]}
