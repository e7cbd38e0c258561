"""A strategy without a server or a model: self-consistency over a scripted engine.

`strategies` needs nothing but the standard library; an engine and a reader of answers are handed to it.
"""

import asyncio
from collections.abc import Sequence
from itertools import cycle

from service.engines.scripted import ScriptedEngine
from strategies import answers
from strategies.run import Outcome, run
from strategies.self_consistency import SelfConsistency
from strategies.session import Session
from strategies.types import Candidate, Chat

SAYS = cycle(["17 + 25 = 42, so \\boxed{42}", "I think the answer is 41.", "It is 42", "no idea"])


class Reader:
    """Reads final answers; equal are those that are spelled the same."""

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        return [answers.read(candidate.text) for candidate in candidates]

    async def classes(self, found: Sequence[str | None]) -> list[int | None]:
        distinct = list(dict.fromkeys(answer for answer in found if answer))
        return [distinct.index(answer) if answer else None for answer in found]


async def main() -> None:
    engine = ScriptedEngine(lambda prompt, branch: next(SAYS))
    chat = Chat(({"role": "user", "content": "What is 17 + 25?"},))
    session = Session(chat, engine, Reader(), seed=7)
    async for event in run(SelfConsistency(samples=8), session):
        if isinstance(event, Outcome):
            print("answer:", event.round.ranked[0].text)
            for vote in event.round.votes:
                print(f"{vote.count:3} votes for {vote.answer}")
            print("usage: ", session.usage["policy"].completion, "tokens")


if __name__ == "__main__":
    asyncio.run(main())
