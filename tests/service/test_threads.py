"""What a job writes in a thread is written before the job is another's, ends, or is deleted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.background import executor
from service.background.distillation import journal_of
from service.benchmarks.lines import SAMPLES
from service.engines.scripted import ScriptedEngine
from service.jobs import Store
from service.jobs.journal import Journal
from service.settings import Settings
from service.threads import in_thread
from tests.service.benchmarks.asking import PATH, request
from tests.service.benchmarks.sums import sums
from tests.service.fine_tuning import QUESTION, service, uploaded

LATE = 0.3
"""Seconds that a write goes on after its job is not wanted any more; the test does not hang on them."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEAT_SECONDS", "POLL_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(executor, name, 0.02)


async def test_who_is_cancelled_waits_for_the_thread() -> None:
    begun, go, done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def write() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(60)
        done.append(1)

    task = asyncio.create_task(in_thread(write))
    await begun.wait()
    task.cancel()
    assert await asyncio.wait({task}, timeout=0.05) == (set(), {task})
    task.cancel()  # once more, as a task group and its owner do
    assert await asyncio.wait({task}, timeout=0.05) == (set(), {task})
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_what_a_thread_raises_is_raised_unless_nobody_waits() -> None:
    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await in_thread(fail)


class Writes:
    """A journal whose first entry takes until the job was found to be unwanted, and a while longer."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        self.name, self.busy, self.ended_meanwhile = name, False, False
        self.begun, self.go = asyncio.Event(), threading.Event()
        self.loop = asyncio.get_running_loop()
        self.append, self.renew, self.finish = Journal.append, Store.renew, Store.finish
        patch.setattr(Journal, "append", lambda journal, entries: self.appended(journal, entries))
        patch.setattr(Store, "renew", lambda store, *args: self.renewed(store, *args))
        patch.setattr(Store, "finish", lambda store, *args, **more: self.finished(store, *args, **more))

    def appended(self, journal: Journal, entries: Iterable[Mapping[str, Any]]) -> None:
        if journal.path.name.endswith(self.name) and not self.begun.is_set():
            self.busy = True
            self.loop.call_soon_threadsafe(self.begun.set)
            assert self.go.wait(60)
            self.append(journal, entries)
            self.busy = False
        else:
            self.append(journal, entries)

    def renewed(self, store: Store, *args: Any) -> Any:
        wanted = self.renew(store, *args)
        if wanted == "cancel":
            threading.Timer(LATE, self.go.set).start()
        return wanted

    def finished(self, store: Store, *args: Any, **more: Any) -> bool:
        self.ended_meanwhile |= self.busy
        return self.finish(store, *args, **more)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)


async def test_a_cancelled_distillation_writes_nothing_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch, ".jsonl")
    async with service(ScriptedEngine(lambda prompt, branch: "\\boxed{42}")) as (client, context):
        body = {"model": "smollm2", "file": await uploaded(client, QUESTION), "strategy": "self_consistency"}
        job: Any = await client.post("/distillations", body=body, cast_to=object)
        await writes.begun.wait()
        await client.post(f"/distillations/{job['id']}/cancel", cast_to=object)

        async def ended() -> bool:
            return context.store.job(job["id"]).ended and not writes.busy

        await until(ended)
        assert context.store.job(job["id"]).status == "cancelled"
    assert not writes.ended_meanwhile
    assert not journal_of(context.store, job["id"]).path.exists()


async def test_a_deleted_benchmark_writes_nothing_after_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writes = Writes(monkeypatch, SAMPLES)
    async with service(ScriptedEngine(sums), Settings(data_dir=tmp_path)) as (client, context):
        job: Any = await client.post(PATH.removeprefix("/v1"), body=request(), cast_to=object)
        await writes.begun.wait()
        await client.post(f"/benchmarks/{job['id']}/cancel", cast_to=object)

        async def ended() -> bool:
            return context.store.job(job["id"]).ended

        await until(ended)
        await client.delete(f"/benchmarks/{job['id']}", cast_to=object)

        async def quiet() -> bool:
            return not writes.busy

        await until(quiet)
    assert not writes.ended_meanwhile
    assert list((tmp_path / "benchmarks").iterdir()) == []


async def test_a_job_that_is_taken_while_the_service_ends_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, loop, take = asyncio.Event(), asyncio.get_running_loop(), Store.take_job

    def slow(store: Store, *args: Any) -> Any:
        job = take(store, *args)
        if job is not None:
            loop.call_soon_threadsafe(taken.set)
            threading.Event().wait(LATE)
        return job

    monkeypatch.setattr(Store, "take_job", slow)
    async with service(ScriptedEngine(sums)) as (client, context):
        job: Any = await client.post(PATH.removeprefix("/v1"), body=request(), cast_to=object)
        await taken.wait()
    store = Store.open(context.store.folder)
    assert (store.job(job["id"]).status, store.job(job["id"]).lease_owner) == ("queued", None)
    store.close()
