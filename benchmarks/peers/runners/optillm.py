"""optillm's proxy, as its users start it, before the vLLM of everybody.

`k` is what its majority voting calls the number of samples; best-of-n has it as an argument of the server; mcts keeps
its defaults (2 simulations, depth 1). DeepConf is asked for as optillm has it, by `decoding`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from benchmarks.peers.runners.asking import Task, answer_questions, ask_by_http, free_port, read_task, running


def main() -> None:
    task = read_task()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(command(task, port), f"{url}/health", {"OPENAI_API_KEY": task.key, "NO_PROXY": "127.0.0.1"}):
        asyncio.run(answer_questions(task, ask_by_http(task, f"{url}/v1", body(task))))


def command(task: Task, port: int) -> list[str]:
    proxy = str(Path(sys.executable).parent / "optillm")
    return [proxy, "--base-url", task.url, "--port", str(port), "--best-of-n", str(task.samples), "--log", "warning"]


def body(task: Task) -> dict[str, object]:
    if task.method == "deepconf":
        return {"decoding": "deepconf"}
    return {"optillm_approach": task.method, "k": task.samples}


if __name__ == "__main__":
    main()
