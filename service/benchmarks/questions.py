"""The questions of a benchmark: inline rows, an uploaded file, generated arithmetic, or a well-known dataset."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError

from service.benchmarks import arithmetic, hub
from service.errors import ApiError, invalid
from service.jobs import Missing, Store
from service.schema import Strict

Item = dict[str, Any]
"""A row: `question`, `answer`, `id`, and whatever else templates and graders may use."""

MARK = "####"
"""In GSM8K's answers the worked solution comes first, and behind this the answer itself."""

BOXED = "{{item.question}}\n\nThink step by step, and put the final answer in \\boxed{}."


class Rows(Strict):
    """The questions themselves."""

    rows: list[dict[str, Any]] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)


class Uploaded(Strict):
    """A JSONL file that was uploaded to /v1/files."""

    file: str
    limit: int | None = Field(None, ge=1)


class Arithmetic(Strict):
    """Generated; see arithmetic.py."""

    name: Literal["arithmetic"]
    questions: int = Field(100, ge=1, le=10_000)
    steps: int = Field(3, ge=1, le=32)
    digits: int = Field(2, ge=1, le=6)
    split: arithmetic.Split = "test"
    seed: int = 0


class Hub(Strict):
    """From the Hugging Face hub, where it can be reached."""

    name: hub.Name
    limit: int | None = Field(None, ge=1)


Dataset = Rows | Uploaded | Arithmetic | Hub


def parse(body: Mapping[str, Any]) -> Dataset:
    """Which dataset is meant, by its first key; raise ApiError with the path of what is wrong."""
    kinds: dict[str, type[Dataset]] = {"rows": Rows, "file": Uploaded, "name": Hub}
    kind = next((kinds[key] for key in kinds if key in body), None)
    name = body.get("name")
    if kind is None or (kind is Hub and name not in ("arithmetic", *hub.SOURCES)):
        allowed = ", ".join(["arithmetic", *hub.SOURCES])
        problem = f"there is no dataset {name!r}" if kind else "one of `rows`, `file` and `name` is needed"
        raise ApiError(400, f"dataset: {problem}; the names are {allowed}", "dataset.name" if kind else "dataset")
    try:
        return (Arithmetic if name == "arithmetic" else kind).model_validate(body)
    except ValidationError as error:
        raise invalid(error, ("dataset",)) from error


def prompt(dataset: Mapping[str, Any]) -> str:
    """The template of a question where the request has no messages of its own."""
    return BOXED if dataset.get("name") in hub.SOURCES else "{{item.question}}"


async def load(dataset: Dataset, store: Store) -> list[Item]:
    """The rows, checked; raise ApiError that says which one is wrong and why."""
    match dataset:
        case Rows():
            return check_rows(dataset.rows[: dataset.limit], "dataset.rows[{}]")
        case Uploaded():
            return await asyncio.to_thread(read_upload, dataset, store)
        case Arithmetic():
            return check_rows(await asyncio.to_thread(generate_problems, dataset), "question {}")
        case Hub():
            return check_rows((await hub.load(dataset.name))[: dataset.limit], "row {}")


def generate_problems(dataset: Arithmetic) -> list[Item]:
    difficulty = {"steps": dataset.steps, "digits": dataset.digits}
    try:
        problems = arithmetic.generate(dataset.questions, **difficulty, split=dataset.split, seed=dataset.seed)
    except ValueError as error:
        raise ApiError(400, f"dataset.questions: {error}", "dataset.questions", "invalid_value") from error
    return [{"question": problem.question, "answer": problem.answer} for problem in problems]


def read_upload(dataset: Uploaded, store: Store) -> list[Item]:
    try:
        path = store.path(dataset.file)
    except Missing as error:
        raise ApiError(400, f"dataset.file: {error}", "dataset.file", "file_not_found") from error
    return read_file(path, dataset.limit)


def read_file(path: Path, limit: int | None) -> list[Item]:
    """The rows of a JSONL file; raise ApiError that names the line."""
    rows: list[Any] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(rows) == limit:
                break
            if not line.strip():
                raise ApiError(400, f"dataset.file: line {number} is empty", "dataset.file", "invalid_file")
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                problem = f"dataset.file: line {number} is not valid JSON: {error}"
                raise ApiError(400, problem, "dataset.file", "invalid_file") from error
    if not rows:
        raise ApiError(400, "dataset.file: the file is empty", "dataset.file", "invalid_file")
    return check_rows(rows, "dataset.file: line {}", 1)


def check_rows(rows: Sequence[Any], place: str, first: int = 0) -> list[Item]:
    """Every row with a question and an answer, both texts, and no question twice; `place` says where a row is."""
    items: list[Item] = []
    known: dict[str, str] = {}
    for number, row in enumerate(rows, first):
        where = place.format(number)
        if not isinstance(row, dict):
            raise wrong(where, "must be an object")
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not question.strip():
            raise wrong(where, "`question` must be a text that is not empty")
        reference = str(answer).rsplit(MARK, 1)[-1].strip()
        if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not reference:
            raise wrong(where, "`answer` must be a text that is not empty, or a number")
        if question in known:
            raise wrong(where, f"the same question as {known[question]}")
        known[question] = where
        items.append({"id": str(number), **row, "answer": reference})
    return items


def wrong(where: str, problem: str) -> ApiError:
    return ApiError(400, f"{where}: {problem}", where.split(":")[0], "invalid_dataset")
