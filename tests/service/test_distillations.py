"""Distillations: winners and losers of a strategy become files that a fine-tuning job takes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from service import disk
from service.answers.similarity import distance
from service.background import executor
from service.background.distillation import journal_of
from service.commands import distill
from service.commands.main import app
from service.context import Context
from service.engines.scripted import Reply, ScriptedEngine
from service.jobs import Store, tables
from service.jobs import store as store_module
from service.jobs.journal import Journal
from service.settings import Settings
from strategies.errors import EngineRefused, EngineUnavailable
from tests.conftest import outthink
from tests.service.fine_tuning import MATH, QUESTION, lines, service, uploaded


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service looks for new jobs and for wishes all the time."""
    for name in ("BEAT_SECONDS", "POLL_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(executor, name, 0.02)


STRATEGY = {"type": "self_consistency", "samples": 8}


def guesses(prompt: str, branch: int) -> Reply:
    """Eight samples of a question: five right in two wordings, two wrong, one cut short."""
    if branch == 7:
        return Reply("It goes on and", finish_reason="length")
    right = branch < 5
    return Reply(f"{'So' if branch % 2 else 'Thus'} \\boxed{{{42 if right else 40 + branch}}}")


async def created(client: openai.AsyncOpenAI, *rows: Any, **fields: Any) -> str:
    body = {"model": "smollm2", "file": await uploaded(client, *rows), "strategy": STRATEGY, "seed": 1} | fields
    job: Any = await client.post("/distillations", body=body, cast_to=object)
    assert (job["object"], job["status"], job["error"]) == ("distillation", "queued", None)
    return str(job["id"])


async def ended(client: openai.AsyncOpenAI, job_id: str) -> Any:
    """The job, once it has ended."""
    async with asyncio.timeout(120):
        while True:
            job: Any = await client.get(f"/distillations/{job_id}", cast_to=object)
            if job["status"] not in ("queued", "running"):
                return job
            await asyncio.sleep(0.05)


async def content(client: openai.AsyncOpenAI, file: str) -> list[Any]:
    return [json.loads(line) for line in (await client.files.content(file)).text.splitlines()]


@pytest.mark.parametrize("judge", [{"grader": MATH}, {}])
async def test_winners_and_losers_become_files(judge: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "6 * 7?"}]
    chat = {"messages": messages, "answer": "42"}
    async with service(ScriptedEngine(guesses)) as (client, _):
        job = await ended(client, await created(client, QUESTION, chat, **judge))
        assert (job["status"], job["progress"]["done"], job["progress"]["solved"]) == ("succeeded", 2, 2)
        results = job["results"]
        assert (results["questions"], results["failed"], results["tokens"]) == (2, 0, 2 * (7 * 2 + 4))
        supervised = await content(client, results["sft_file"])
        answers = [row["messages"][-1]["content"] for row in supervised]
        assert answers == ["Thus \\boxed{42}", "So \\boxed{42}"] * 2  # each wording once, the cut one never
        assert [row["messages"][0]["role"] for row in supervised] == ["user", "user", "system", "system"]
        pairs = await content(client, results["dpo_file"])
        assert len(pairs) == 4
        assert pairs[0]["input"]["messages"] == [{"role": "user", "content": QUESTION["question"]}]
        assert pairs[0]["preferred_output"] == [{"role": "assistant", "content": "Thus \\boxed{42}"}]
        assert pairs[0]["non_preferred_output"] == [{"role": "assistant", "content": "So \\boxed{45}"}]
        assert job["result_files"] == [results["sft_file"], results["dpo_file"]]
        for file, method in ((results["sft_file"], "supervised"), (results["dpo_file"], "dpo")):
            kind: Any = {"type": method}
            await client.fine_tuning.jobs.create(model="smollm2", training_file=file, method=kind)


async def test_k_and_threshold_choose() -> None:
    async with service(ScriptedEngine(guesses)) as (client, _):
        job = await ended(client, await created(client, QUESTION, k=1))
        assert (job["results"]["sft_rows"], job["results"]["dpo_rows"]) == (1, 1)
        none = await ended(client, await created(client, QUESTION, threshold=0.9))  # 5 of 7 agree
        assert (none["status"], none["results"]["sft_file"], none["results"]["solved"]) == ("succeeded", None, 0)
        wrong = await ended(client, await created(client, {**QUESTION, "answer": "45"}, grader=MATH))
        assert (wrong["results"]["sft_rows"], wrong["results"]["dpo_rows"]) == (1, 1)


async def test_pairs_differ_as_much_as_is_asked() -> None:
    """Winners are in two wordings, one a letter from the losers' and the other six of them."""

    def script(prompt: str, branch: int) -> Reply:
        said = ("Thus 42", "By sums 42", "Thus 41", "Thus 43")[branch]
        return Reply(f"{said[:-2]}\\boxed{{{said[-2:]}}}")

    async with service(ScriptedEngine(script)) as (client, _):

        async def pairs(**options: Any) -> list[tuple[str, str]]:
            strategy = {"type": "self_consistency", "samples": 4}
            job = await ended(client, await created(client, QUESTION, grader=MATH, strategy=strategy, **options))
            file = job["results"]["dpo_file"]
            rows = await content(client, file) if file else []
            return [(row["preferred_output"][0]["content"], row["non_preferred_output"][0]["content"]) for row in rows]

        one, other, below, above = (f"{said}\\boxed{{{n}}}" for said, n in WORDINGS)
        assert await pairs() == [(one, below), (other, above)]
        assert await pairs(min_distance=0.1) == [(other, below)]
        assert await pairs(min_distance=0.1, k=1) == [(other, below)], "k is of the pairs, not of what they are made of"
        assert await pairs(min_distance=0.9) == []


WORDINGS = [("Thus ", 42), ("By sums ", 42), ("Thus ", 41), ("Thus ", 43)]


@pytest.mark.parametrize(("texts", "share"), [(("a + b", "a - b"), 0.2), (("", "ab"), 1.0), (("ab", "ab"), 0.0)])
def test_a_distance_is_a_share_of_the_longer_text(texts: tuple[str, str], share: float) -> None:
    assert distance(*texts) == pytest.approx(share)


async def test_a_question_that_cannot_be_answered_is_left_out() -> None:
    def script(prompt: str, branch: int) -> Reply:
        return Reply(error=EngineRefused("too long", 400)) if "hard" in prompt else guesses(prompt, branch)

    async with service(ScriptedEngine(script)) as (client, _):
        job_id = await created(client, {"question": "hard"}, QUESTION)
        job = await ended(client, job_id)
        assert (job["status"], job["results"]["failed"], job["results"]["sft_rows"]) == ("succeeded", 1, 2)
        events: Any = await client.get(f"/distillations/{job_id}/events", cast_to=object)
        assert [event["message"] for event in events["data"] if event["level"] == "warn"] == ["line 1: too long"]


async def test_a_model_that_disappears_fails_the_job() -> None:
    engine = ScriptedEngine(lambda prompt, branch: Reply(error=EngineRefused("The model does not exist.", 404)))
    async with service(engine) as (client, _):
        job_id = await created(client, QUESTION)
        job = await ended(client, job_id)
        events: Any = await client.get(f"/distillations/{job_id}/events", cast_to=object)
    assert (job["status"], job["error"]["message"], job["results"]) == ("failed", "The model does not exist.", None)
    assert events["data"][0]["message"] == "failed: The model does not exist."


async def test_an_engine_that_is_down_is_waited_for() -> None:
    asked: list[int] = []

    def script(prompt: str, branch: int) -> Reply:
        asked.append(branch)
        return Reply(error=EngineUnavailable("down")) if len(asked) <= 16 else guesses(prompt, branch)

    async with service(ScriptedEngine(script)) as (client, _):
        job = await ended(client, await created(client, QUESTION))
        assert (job["status"], job["results"]["failed"], job["results"]["solved"]) == ("succeeded", 0, 1)


async def test_a_job_goes_on_where_it_was_when_the_service_ended() -> None:
    asked: list[str] = []
    held, stuck = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        if len(asked) > 8:
            stuck.set()
            await held.wait()

    def script(prompt: str, branch: int) -> Reply:
        asked.append(prompt)
        return guesses(prompt, branch)

    rows = [{"question": f"Question {i}"} for i in range(3)]
    async with service(ScriptedEngine(script, pause)) as (client, context):
        job_id = await created(client, *rows, concurrency=1)
        await asyncio.wait_for(stuck.wait(), 120)
    assert context.store.job(job_id).status == "queued"  # given back, not lost
    held.set()
    first = asked[0]
    asked.clear()
    async with service(ScriptedEngine(script, pause)) as (client, _):
        job = await ended(client, job_id)
    assert (job["status"], job["results"]["solved"], job["results"]["sft_rows"]) == ("succeeded", 3, 6)
    assert first not in asked


async def test_progress_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    told, progress = [], Store.progress
    first = threading.Event()

    def slow(store: Store, *names: str, **facts: Any) -> bool:
        """The one that comes first takes longer."""
        if not first.is_set():
            first.set()
            time.sleep(0.2)
        told.append(facts["done"])
        return progress(store, *names, **facts)

    monkeypatch.setattr(Store, "progress", slow)
    rows = [{"question": f"Question {i}"} for i in range(3)]
    async with service(ScriptedEngine(guesses)) as (client, _):
        job = await ended(client, await created(client, *rows, concurrency=3))
    assert (told, job["progress"]["done"]) == ([1, 2, 3], 3)


async def test_a_running_job_is_cancelled() -> None:
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    engine = ScriptedEngine(guesses, never)
    async with service(engine) as (client, _):
        job_id = await created(client, QUESTION)
        await asyncio.wait_for(begun.wait(), 120)
        await client.post(f"/distillations/{job_id}/cancel", cast_to=object)
        assert (await ended(client, job_id))["status"] == "cancelled"
        assert engine.open_streams == 0


async def test_a_kill_between_the_files_and_the_result_makes_no_file_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    finish = Store.finish
    dead = asyncio.Event()

    def script(prompt: str, branch: int) -> Reply:
        asked.append(prompt)
        return guesses(prompt, branch)

    def killed(store: Store, *args: Any, **kwargs: Any) -> bool:
        loop.call_soon_threadsafe(dead.set)
        raise OSError("the process ends here")

    loop = asyncio.get_running_loop()
    async with service(ScriptedEngine(script)) as (client, context):
        monkeypatch.setattr(Store, "finish", killed)
        job_id = await created(client, QUESTION)
        await asyncio.wait_for(dead.wait(), 120)
        assert journal_of(context.store, job_id).path.exists(), "what was done is kept until its end is stored"
        assert files_but(job_id, context) == [], "its files appear with its end"
    monkeypatch.setattr(Store, "finish", finish)
    with context.store.engine.begin() as connection:
        connection.execute(update(tables.jobs).values(lease_until=0))
    asked.clear()
    async with service(ScriptedEngine(script)) as (client, context):
        job = await ended(client, job_id)
        assert (job["status"], job["results"]["solved"]) == ("succeeded", 1)
        assert files_but(job_id, context) == job["result_files"]
        await gone(journal_of(context.store, job_id))
        assert names(context) == {file.id for file in context.store.files().data}
    assert not asked, "no question is asked twice"


def files_but(job_id: str, context: Context) -> list[str]:
    """The files that are listed, in their order, without the one that the job reads."""
    return [
        file.id for file in context.store.files(order="asc").data if file.id != context.store.job(job_id).spec["file"]
    ]


def names(context: Context) -> set[str]:
    return {path.name for path in (context.store.folder / "files").iterdir()}


class Killed(BaseException):
    """The process ends here; a thread's task takes it for an error."""


@pytest.mark.parametrize("last", ["copy", "rename", "insert"])
async def test_a_cancelled_job_that_was_killed_at_its_files_leaves_none(last: str) -> None:
    """Killed after a file is on the disk, after it has its name, or after the first one has its record."""
    dead = asyncio.Event()
    loop = asyncio.get_running_loop()
    places = {"copy": (store_module, "copy"), "rename": (disk, "rename"), "insert": (Store, "_note")}
    owner, name = places[last]
    call = getattr(owner, name)

    def killed(*args: Any, **more: Any) -> Any:
        if name == "_note" and not args[4].startswith("succeeded"):
            return call(*args, **more)
        if name != "_note":
            call(*args, **more)
        loop.call_soon_threadsafe(dead.set)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        async with service(ScriptedEngine(guesses)) as (client, context):
            file = await uploaded(client, QUESTION)
            patch.setattr(owner, name, killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # what is killed clears nothing up
            body = {"model": "smollm2", "file": file, "strategy": STRATEGY}
            job: Any = await client.post("/distillations", body=body, cast_to=object)
            await asyncio.wait_for(dead.wait(), 120)
        later = Store(context.store.engine, context.store.folder, lambda: time.time() + 60)  # its lease has ended
        assert files_but(job["id"], context) == []
        assert names(context) > {file}
        assert later.want(job["id"], "cancel").ended
    async with service(ScriptedEngine(guesses)) as (client, context):
        await gone(journal_of(context.store, job["id"]))
        assert names(context) == {file}
        assert files_but(job["id"], context) == []


async def test_what_a_killed_writer_staged_goes_at_a_start_once_it_is_old() -> None:
    async with service() as (_, context):
        old, young = (context.store.stage_file("evals", "x", b"{}") for _ in range(2))
        os.utime(old.path, (0, 0))
    async with service() as (_, context):
        await gone(Journal(old.path))
        assert names(context) == {young.path.name}


async def gone(journal: Journal) -> None:
    async with asyncio.timeout(120):
        while journal.path.exists():  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)


async def interrupted(client: openai.AsyncOpenAI, context: Context, stuck: asyncio.Event) -> Journal:
    """The journal of a job whose first question is done and whose second one hangs."""
    rows = [{"question": f"Question {i}"} for i in range(3)]
    job_id = await created(client, *rows, concurrency=1)
    await asyncio.wait_for(stuck.wait(), 120)
    journal = journal_of(context.store, job_id)
    assert len(list(journal)) == 1
    return journal


async def test_a_cancelled_job_leaves_nothing_on_disk() -> None:
    asked, stuck = [0], asyncio.Event()

    def script(prompt: str, branch: int) -> Reply:
        asked[0] += 1
        return guesses(prompt, branch)

    async def pause() -> None:
        if asked[0] > 8:
            stuck.set()
            await asyncio.Event().wait()

    async with service(ScriptedEngine(script, pause)) as (client, context):
        journal = await interrupted(client, context, stuck)
        await client.post(f"/distillations/{journal.path.stem}/cancel", cast_to=object)
        await gone(journal)
    asked[0] = 0
    stuck.clear()
    async with service(ScriptedEngine(script, pause)) as (client, context):
        journal = await interrupted(client, context, stuck)
    assert journal.path.exists(), "it waits to be taken up again"
    async with outthink(settings=Settings(engine_url="http://127.0.0.1:9")) as service_without_engine:
        reply = await service_without_engine.post(f"/v1/distillations/{journal.path.stem}/cancel")
        assert reply.json()["status"] == "cancelled"
        assert not journal.path.exists()


async def test_the_journal_of_a_job_that_has_ended_goes_at_the_next_start() -> None:
    async with service(ScriptedEngine(guesses)) as (client, context):
        job = await ended(client, await created(client, QUESTION))
    left = journal_of(context.store, job["id"])
    left.append([{"number": 0}])
    async with service(ScriptedEngine(guesses)):
        await gone(left)


async def test_a_job_whose_file_is_gone_fails() -> None:
    async with service(ScriptedEngine(guesses)) as (client, context):
        spec = {"model": "smollm2", "file": "file-gone", "strategy": "self_consistency", "k": 1}
        failed = await ended(client, context.store.create_job("distillation", "smollm2", spec).id)
        assert (failed["status"], failed["error"]["code"], failed["error"]["param"]) == (
            "failed",
            "invalid_file",
            "file",
        )


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "nope"}, "strategy"),
    ({"strategy": {"type": "self_consistency", "samples": 0}}, "strategy.samples"),
    ({"model": "smollm2@sc"}, "model"),
    ({"file": "file-nope"}, "file"),
    ({"k": 0}, "k"),
    ({"temperature": 0}, "temperature"),
    ({"grader": {"type": "python", "name": "p", "source": "x = 1"}}, "grader.source"),
    ({"grader": MATH | {"reference": "{{item.gold}}"}}, "file"),
    ({"surprise": 1}, "surprise"),
    ({"budget": {"tokens": 0}}, "budget.tokens"),
]


async def test_mistakes_are_named_by_their_path() -> None:
    async with outthink(ScriptedEngine(guesses)) as client:
        form = {"files": {"file": ("x", lines(QUESTION))}, "data": {"purpose": "evals"}}
        file = (await client.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type]
        for change, param in MISTAKES:
            body = {"model": "smollm2", "file": file, "strategy": STRATEGY} | change
            refused = await client.post("/v1/distillations", json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        assert (await client.get("/v1/distillations")).json()["data"] == []


async def test_the_command_writes_the_training_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "LOOK_SECONDS", 0.02)
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out"
    questions.write_text(json.dumps(QUESTION) + "\n")
    async with outthink(ScriptedEngine(guesses)) as client:
        command = [
            "distill",
            str(questions),
            "--model",
            "smollm2",
            "--strategy",
            json.dumps(STRATEGY),
            "--grader",
            "math",
        ]
        address = ["--url", str(client.base_url), "--out", str(out)]
        result = await asyncio.to_thread(CliRunner().invoke, app, [*command, *address])
        wrong = await asyncio.to_thread(CliRunner().invoke, app, [*command, *address, "--k", "0"])
    assert result.exit_code == 0, result.output
    files = {path.name: path.read_text().splitlines() for path in out.iterdir()}
    assert len(files) == 2
    assert {len(rows) for rows in files.values()} == {2}
    assert all("42" in row for rows in files.values() for row in rows)
    assert wrong.exit_code == 2
    assert "k" in wrong.output
