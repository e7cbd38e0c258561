"""The same eight sums as a task of inspect-ai's."""

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import pattern
from inspect_ai.solver import generate

ROWS = Path(__file__).with_name("sums.jsonl").read_text().splitlines()


@task
def sums() -> Task:
    rows = [json.loads(row) for row in ROWS]
    dataset = MemoryDataset([Sample(row["question"], target=row["answer"]) for row in rows])
    return Task(dataset, solver=generate(), scorer=pattern(r"boxed\{(-?\d+)\}"))
