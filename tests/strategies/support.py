"""A session without a server: a scripted engine, and a reader that compares by spelling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from math import log
from typing import Any

from service.engines.scripted import Reply, Script, ScriptedEngine
from strategies.accounting import Budget
from strategies.answers import read
from strategies.run import Outcome, run
from strategies.session import Session, Strategy
from strategies.types import Candidate, Chat, Generation, Round, Scorer

CHAT = Chat(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 * 7?"}))


class SpellingReader:
    """Answers are equal when they are spelled alike."""

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        return [read(candidate.text) if candidate.complete else None for candidate in candidates]

    async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        numbers: dict[str, int] = {}
        return [None if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers]


def says(*replies: Reply | str) -> Script:
    """Branch i gives the i-th reply, round and round, whatever it is asked."""
    return lambda prompt, index: replies[index % len(replies)]


def grades(answers: Script, grade: Callable[[str], dict[str, float]]) -> Script:
    """A script that answers questions, and grades what a judge's prompt shows by log-probabilities of labels."""

    def script(prompt: str, index: int) -> Reply | str:
        return Reply("1", labels=grade(prompt)) if "Reply with" in prompt else answers(prompt, index)

    return script


def reviews(policy: Script, probability: Callable[[str], float]) -> Script:
    """A script that grows paths, and answers a generative scorer by the probability of the solution it shows."""

    def script(prompt: str, index: int) -> Reply | str:
        if "Reply Yes or No." not in prompt:
            return policy(prompt, index)
        p = probability(prompt.partition("Solution so far:\n")[2].partition("\n\nIs the solution")[0])
        return Reply("Yes", labels={"Yes": log(max(p, 1e-300)), "No": log(max(1 - p, 1e-300))})

    return script


def grown(prompt: str) -> str:
    """The path that a prompt continues, without the conversation."""
    return prompt.partition("6 * 7?")[2]


async def turn() -> None:
    """A pause in which the other streams get their turn, as with any real engine."""
    await asyncio.sleep(0)


def session(
    script: Script,
    *,
    scorer: Scorer | None = None,
    budget: Budget = Budget(),  # noqa: B008
    seed: int | None = 7,
    chat: Chat = CHAT,
    **engine: Any,
) -> Session:
    begun = time.monotonic()
    return Session(chat, ScriptedEngine(script, **engine), SpellingReader(), scorer, seed, budget=budget, started=begun)


def engine(of: Session) -> ScriptedEngine:
    assert isinstance(of.engine, ScriptedEngine)
    return of.engine


async def finished(strategy: Strategy, on: Session) -> tuple[Outcome, list[Round]]:
    """Run to the end: the outcome and every round before it."""
    events = [event async for event in run(strategy, on)]
    assert isinstance(events[-1], Outcome)
    return events[-1], [event for event in events if isinstance(event, Round)]


def gate(events: float) -> Callable[[], Awaitable[None]]:
    """A pause that lets so many events through, and then none for ever."""
    passed = count(1)

    async def pause() -> None:
        if next(passed) > events:
            await asyncio.Event().wait()

    return pause


def candidate(id: int, answer: str | None = None, group: int | None = None, **fields: Any) -> Candidate:
    """A candidate of one step. `text`, `finish_reason` and `message` are the step's."""
    step = {name: fields.pop(name) for name in ("finish_reason", "message") if name in fields}
    text = fields.pop("text", f"It is {answer}.")
    return Candidate(id, (Generation(text, 3, **step),), answer=answer, group=group, **fields)
