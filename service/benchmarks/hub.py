"""Well-known datasets from the Hugging Face hub, loaded in a process of its own that can be killed.

`python -m service.benchmarks.hub NAME` writes the rows as JSON Lines. The service itself never imports `datasets`,
which brings pyarrow and pandas, and waits for a network that may not be there.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import ApiError

Name = Literal["gsm8k", "math-500", "aime"]
SECONDS = 60.0
QUICK = {"HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "20", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a dataset is, and what its columns are called. Nothing else can be loaded."""

    path: str
    config: str | None
    split: str
    question: str
    answer: str


SOURCES: dict[Name, Source] = {
    "gsm8k": Source("openai/gsm8k", "main", "test", "question", "answer"),
    "math-500": Source("HuggingFaceH4/MATH-500", None, "test", "problem", "answer"),
    "aime": Source("HuggingFaceH4/aime_2024", None, "train", "problem", "answer"),
}


async def load(name: Name) -> list[dict[str, Any]]:
    """The rows of a dataset; raise ApiError 400 that says what to do where the hub cannot be reached."""
    try:
        done = await asyncio.to_thread(run_loader, name)
    except subprocess.TimeoutExpired:
        raise unreachable(name, f"no answer within {SECONDS:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise unreachable(name, said[-1][:300] if said else f"exit status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_loader(name: Name) -> subprocess.CompletedProcess[bytes]:
    """The process, ended; it is killed when it takes too long."""
    command = [sys.executable, "-m", __name__, name]
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, env=QUICK | dict(os.environ))


def unreachable(name: str, reason: str) -> ApiError:
    return ApiError(
        400,
        f"dataset.name: {name} could not be loaded from the Hugging Face hub ({reason}); upload its questions as a "
        'JSONL file with `question` and `answer` in every row to /v1/files, and send {"file": "file-…"}',
        "dataset.name",
        "dataset_unavailable",
    )


def main(name: Name) -> None:
    """In the process of its own."""
    from datasets import load_dataset

    source = SOURCES[name]
    for row in load_dataset(source.path, source.config, split=source.split):
        print(json.dumps({"question": row[source.question], "answer": row[source.answer]}))


if __name__ == "__main__":
    main(sys.argv[1])  # type: ignore[arg-type]
