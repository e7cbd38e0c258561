"""vLLM itself, and Outthink before it: both are asked as they are, `body` has all that makes a method."""

from __future__ import annotations

import asyncio

from benchmarks.peers.runners.asking import answer_questions, ask_by_http, read_task


def main() -> None:
    task = read_task()
    asyncio.run(answer_questions(task, ask_by_http(task, task.url, task.body)))


if __name__ == "__main__":
    main()
