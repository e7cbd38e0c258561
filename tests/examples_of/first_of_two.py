"""The strategy of docs/architecture.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import ClassVar

from strategies.knobs import knob
from strategies.seeds import derive
from strategies.session import Session, Strategy
from strategies.types import Call, Event, Plan, Round, Scorer


@dataclass(frozen=True, slots=True)
class FirstOfTwo(Strategy):
    """Sample two answers and keep the first that is complete."""

    type: ClassVar[str] = "first_of_two"
    summary: ClassVar[str] = "Two answers, the first complete one."
    paper: ClassVar[str] = "https://arxiv.org/abs/…"
    cost: ClassVar[str] = "2 × answer, in parallel"
    temperature_default: ClassVar[float | None] = 0.7
    size_knob: ClassVar[str | None] = "samples"

    samples: int = knob(2, "Answers to sample.", ge=1, le=8)

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        return Plan(rounds=1, branches=self.samples, policy_tokens=self.samples * max_tokens)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        answers = await session.read(await session.sample(Call(self.samples, derive(session.seed, self.type))))
        yield Round(tuple(answers), ranked=tuple(sorted(answers, key=lambda c: (not c.complete, c.id))))
