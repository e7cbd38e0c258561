"""A runner of no peer: `python -m tests.benchmarks.answering METHOD …` behaves as the method is called."""

from __future__ import annotations

import asyncio
import os
import sys

from benchmarks.peers.runners.asking import Task, answer_questions, read_task


def main() -> None:
    task = read_task()
    if task.method == "absent":
        raise ModuleNotFoundError("No module named 'peer'")
    asyncio.run(answer_questions(task, Answering(task)))


class Answering:
    """Says how many questions it was asked before, the one that is not counted among them."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.asked = -1
        self.now = 0

    async def __call__(self, question: str) -> str:
        self.asked += 1
        self.now += 1
        try:
            return await self.answer(self.asked)
        finally:
            self.now -= 1

    async def answer(self, number: int) -> str:
        print("what a peer prints is not an answer")
        await asyncio.sleep(0)
        if self.task.method == "raises" or (self.task.method == "raises once" and number == 2):
            raise ValueError("no such model\nand much more")
        if self.task.method == "dies" and number == 2:
            print("ran out of memory", file=sys.stderr)
            os._exit(1)
        if self.task.method == "hangs" and number == 2:
            await asyncio.Event().wait()
        return f"{self.now} at once"


if __name__ == "__main__":
    main()
