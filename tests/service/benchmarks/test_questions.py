"""Datasets: what is read, what is generated, what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.benchmarks import arithmetic, hub, questions
from service.errors import ApiError
from service.jobs import Store
from tests.service.benchmarks.sums import result


@pytest.mark.parametrize(("steps", "digits"), [(1, 1), (3, 2), (8, 4)])
def test_arithmetic_is_right_and_never_negative(steps: int, digits: int) -> None:
    problems = arithmetic.generate(8, steps=steps, digits=digits, split="train", seed=3)
    for problem in problems:
        assert result(problem.question) == int(problem.answer) >= 0
        *equations, boxed = problem.solution.split("\n\n")
        assert len(equations) == steps
        assert boxed == f"\\boxed{{{problem.answer}}}"
        for equation in equations:
            left, _, right = equation.partition(" = ")
            a, sign, b = left.split()
            assert (int(a) + int(b) if sign == "+" else int(a) - int(b)) == int(right)


def test_arithmetic_is_seeded_and_splits_share_nothing() -> None:
    def asked(split: arithmetic.Split, seed: int, count: int = 300) -> list[str]:
        return [problem.question for problem in arithmetic.generate(count, steps=2, digits=1, split=split, seed=seed)]

    assert asked("train", 0) == asked("train", 0) != asked("train", 1)
    assert asked("train", 0, 400)[:300] == asked("train", 0)
    train = {*asked("train", 0), *asked("train", 1), *asked("train", 2)}
    test, validation = {*asked("test", 0, 60), *asked("test", 1, 60)}, {*asked("validation", 0, 60)}
    assert train.isdisjoint(test | validation)
    assert test.isdisjoint(validation)


def test_a_difficulty_has_only_so_many_questions() -> None:
    with pytest.raises(ValueError, match="only about"):
        arithmetic.generate(500, steps=1, digits=1)


def row(**fields: Any) -> dict[str, Any]:
    return {"question": "1 + 1?", "answer": "2"} | fields


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(), row(question="")], r"dataset.rows\[1\]: `question`"),
        ([{"answer": "2"}], r"dataset.rows\[0\]: `question`"),
        ([row(answer=None)], r"dataset.rows\[0\]: `answer`"),
        ([row(answer=True)], r"dataset.rows\[0\]: `answer`"),
        ([row(answer="so it is 2\n#### ")], r"dataset.rows\[0\]: `answer`"),
        ([row(), row(question="2?"), row(answer="3")], r"dataset.rows\[2\]: the same question as dataset.rows\[0\]"),
    ],
)
async def test_bad_rows_are_refused_by_their_place(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=said) as error:
        await questions.load(questions.parse({"rows": rows}), Store.open(tmp_path))
    assert error.value.param == said.partition(":")[0].replace("\\", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ('{"question": "1?", "answer": 1}\n\n', "line 2 is empty"),
        ('{"question": "1?", "answer": 1}\n{"question"', "line 2 is not valid JSON"),
        ('{"question": "1?", "answer": 1}\n[1]\n', "line 2: must be an object"),
        ('{"question": "1?", "answer": 1}\n{"question": "1?", "answer": 1}\n', "line 2: the same question as"),
    ],
)
def test_bad_files_are_refused_by_their_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ApiError, match=said) as error:
        questions.read_file(path, None)
    assert error.value.param == "dataset.file"


async def test_a_file_is_read_and_gsm8k_s_mark_understood(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    text = b'{"question": "eggs?", "answer": "16 - 3 = 13\\n#### 13", "id": "x"}\n{"question": "2?", "answer": 2.5}\n'
    file = store.write_file("evals", "rows.jsonl", text)
    items = await questions.load(questions.parse({"file": file.id}), store)
    assert [(item["id"], item["answer"]) for item in items] == [("x", "13"), ("2", "2.5")]
    assert len(await questions.load(questions.parse({"file": file.id, "limit": 1}), store)) == 1
    with pytest.raises(ApiError, match="there is no file"):
        await questions.load(questions.parse({"file": "file-nowhere"}), store)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "dataset"),
        ({"name": "imagenet"}, "dataset.name"),
        ({"name": "arithmetic", "steps": 99}, "dataset.steps"),
        ({"name": "gsm8k", "split": "train"}, "dataset.split"),
        ({"rows": []}, "dataset.rows"),
        ({"rows": [row()], "file": "file-x"}, "dataset.file"),
    ],
)
def test_an_unknown_dataset_names_what_there_is(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as error:
        questions.parse(body)
    assert error.value.param == param


async def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.0)
    with pytest.raises(ApiError, match="upload its questions as a JSONL file") as error:
        await hub.load("gsm8k")
    assert (error.value.status, error.value.code) == (400, "dataset_unavailable")
