"""thinkbooster's service, with a worker for each question at a time, since a request blocks the worker that serves it.

It samples with top_p 0.8 and top_k 20, whatever is asked for. Its best-of-n and beam search score by entropy: its other
scorer is a 7B reward model on a GPU. A round of its beam search has as many paths as those of the other searches.

It counts tokens by a table that tiktoken would download. litellm brings a copy, for machines that cannot.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.runners.asking import Task, answer_questions, ask_by_http, free_port, read_task, running

MAX_STEPS = 8
WIDTH = 4
"""Candidates of each beam: our default `width`."""


def main() -> None:
    task = read_task()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "service_app.main:app", "--port", str(port)]
    # On a busy machine a worker that imports torch is slow to say that it lives, and would be killed with its request.
    patience = ["--timeout-worker-healthcheck", "600"]
    workers = ["--workers", str(task.at_once), *patience, "--log-level", "warning"]
    keys = {"OPENAI_API_KEY": task.key, "NO_PROXY": "127.0.0.1", **tables()}
    with tempfile.TemporaryDirectory() as folder, running([*command, *workers], f"{url}/health", keys, folder):
        asyncio.run(answer_questions(task, ask_by_http(task, f"{url}/v1", body(task))))


def tables() -> dict[str, str]:
    found = find_spec("litellm")  # which is not imported, since what it needs is not there
    if found is None or found.origin is None:
        return {}
    return {"TIKTOKEN_CACHE_DIR": str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")}


def body(task: Task) -> dict[str, Any]:
    return {
        "tts_strategy": task.method,
        "provider": "openai",
        "model_base_url": task.url,
        "tts_api_key": task.key,
        "num_paths": task.samples,
        "tts_num_trajectories": task.samples,
        "tts_beam_size": task.samples // WIDTH,
        "tts_candidates_per_step": WIDTH,
        "tts_max_steps": MAX_STEPS,
    }


if __name__ == "__main__":
    main()
