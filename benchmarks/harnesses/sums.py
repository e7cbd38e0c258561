"""The same eight sums as a task of inspect-ai's."""

import json
from pathlib import Path

from inspect_ai import Task, task  # type: ignore[import-not-found, unused-ignore]
from inspect_ai.dataset import MemoryDataset, Sample  # type: ignore[import-not-found, unused-ignore]
from inspect_ai.scorer import pattern  # type: ignore[import-not-found, unused-ignore]
from inspect_ai.solver import generate  # type: ignore[import-not-found, unused-ignore]

ROWS = Path(__file__).with_name("sums.jsonl").read_text().splitlines()


@task  # type: ignore[untyped-decorator, unused-ignore]
def sums() -> Task:
    rows = [json.loads(row) for row in ROWS]
    dataset = MemoryDataset([Sample(row["question"], target=row["answer"]) for row in rows])
    return Task(dataset, solver=generate(), scorer=pattern(r"boxed\{(-?\d+)\}"))
