"""The store: leases, wishes, pages. On SQLite, and on PostgreSQL where OUTTHINK_TEST_DATABASE_URL names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, insert, update
from sqlalchemy.exc import IntegrityError, OperationalError

from service.jobs import Checkpoint, Conflict, Job, Missing, Store, tables
from service.settings import Settings
from tests.conftest import outthink

LEASE = 30.0


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    url = os.environ.get("OUTTHINK_TEST_DATABASE_URL", "")
    store = Store.open(tmp_path, url, clock)
    yield store
    if url:
        tables.metadata.drop_all(store.engine)
    store.close()


def queued(store: Store) -> Job:
    return store.create_job("fine_tuning", "smollm2", {"metadata": {"run": "a"}})


def test_a_job_is_taken_once(store: Store, tmp_path: Path) -> None:
    jobs = {queued(store).id for _ in range(20)}

    def work(owner: int) -> list[str]:
        taken = []
        while (job := store.take_job(f"worker-{owner}", LEASE)) is not None:
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job for found in pool.map(work, range(8)) for job in found]
    assert sorted(taken) == sorted(jobs)


def test_jobs_are_taken_in_order_and_by_kind(store: Store) -> None:
    first, second = queued(store), queued(store)
    bench = store.create_job("benchmark", "smollm2", {})
    taken = [store.take_job("w", LEASE) for _ in range(3)]
    assert [job and job.id for job in taken] == [first.id, second.id, None]
    found = store.take_job("w", LEASE, ("benchmark", "distillation"))
    assert found is not None
    assert (found.id, found.status, found.started_at, found.attempt) == (bench.id, "running", 1000, 1)


def test_a_lease_that_runs_out_is_another_workers(store: Store, clock: Clock) -> None:
    job = queued(store)
    store.take_job("dead", LEASE)
    clock.time += LEASE - 1
    assert store.renew(job.id, "dead", LEASE) == "run"
    clock.time += LEASE - 1
    assert store.take_job("alive", LEASE) is None
    clock.time += 2
    taken = store.take_job("alive", LEASE)
    assert taken is not None
    assert (taken.attempt, taken.started_at) == (2, 1000)
    assert store.renew(job.id, "dead", LEASE) is None
    assert not store.progress(job.id, "dead", step=9)
    assert not store.finish(job.id, "dead", "failed")
    assert not store.release(job.id, "dead")
    assert store.progress(job.id, "alive", step=1)
    assert store.progress(job.id, "alive", loss=0.5)
    assert store.finish(job.id, "alive", "succeeded", result={"fine_tuned_model": "m"})
    ended = store.job(job.id)
    assert (ended.status, ended.progress, ended.lease_owner) == ("succeeded", {"step": 1, "loss": 0.5}, None)


def test_a_job_that_kills_its_workers_is_given_up(store: Store, clock: Clock) -> None:
    job = queued(store)
    for _ in range(5):
        assert store.take_job("w", LEASE) is not None
        clock.time += LEASE + 1
    assert store.take_job("w", LEASE) is None
    failed = store.job(job.id)
    assert failed.error is not None
    assert (failed.status, failed.error["code"]) == ("failed", "worker_lost")


def test_a_file_whose_writer_was_killed_is_written_again(store: Store) -> None:
    (store.folder / "files" / "file-1.part").write_bytes(b"half of i")
    store.write_file("fine-tune", "rows.jsonl", b"all of it", "file-1")
    store.write_file("fine-tune", "rows.jsonl", b"all of it", "file-1")
    assert [file.id for file in store.files().data] == ["file-1"]
    assert store.path("file-1").read_bytes() == b"all of it"


def test_files_appear_with_the_end_of_their_job(store: Store) -> None:
    job = queued(store)
    store.take_job("w", LEASE)
    made = [store.stage_file("fine-tune", f"{n}.jsonl", b"rows", f"file-{n}") for n in range(2)]
    assert not store.files().data
    assert not store.finish(job.id, "another", "succeeded", files=made, message="The job has succeeded")
    assert not store.files().data
    assert not store.events(job.id).data
    assert store.finish(job.id, "w", "succeeded", files=made, message="The job has succeeded")
    assert [file.id for file in store.files(order="asc").data] == ["file-0", "file-1"]
    assert store.path("file-1").read_bytes() == b"rows"
    assert [event.message for event in store.events(job.id).data] == ["The job has succeeded"]
    assert not store.finish(job.id, "w", "cancelled", message="cancelled")
    assert len(store.events(job.id).data) == 1, "what has ended does not end again"


def test_a_file_that_cannot_be_kept_leaves_its_job_as_it_was(store: Store) -> None:
    job = queued(store)
    store.take_job("w", LEASE)
    made = [store.stage_file("fine-tune", "rows.jsonl", b"rows", f"file-{n}") for n in range(2)]
    made[1].path.unlink()
    with pytest.raises(FileNotFoundError):
        store.finish(job.id, "w", "succeeded", files=made)
    assert (store.job(job.id).status, store.files().data) == ("running", [])
    store.unstage("file-0")
    assert not list((store.folder / "files").iterdir())


def test_unstaging_spares_what_became_a_file(store: Store) -> None:
    store.write_file("fine-tune", "rows.jsonl", b"rows", "file-1")
    store.stage_file("fine-tune", "rows.jsonl", b"rows", "file-1")
    store.unstage("file-1")
    assert [path.name for path in (store.folder / "files").iterdir()] == ["file-1"]


def test_a_kill_while_a_file_is_deleted_leaves_nothing_that_cannot_be_deleted(store: Store) -> None:
    class Killed(BaseException):
        pass

    file = store.write_file("evals", "rows.jsonl", b"rows")
    with patch.object(Path, "unlink", side_effect=Killed), pytest.raises(Killed):
        store.delete_file(file.id)
    assert store.files().data == [file]
    store.delete_file(file.id)
    assert not list((store.folder / "files").iterdir())


def test_a_job_that_goes_further_with_every_worker_is_never_given_up(store: Store, clock: Clock) -> None:
    job = queued(store)
    for step in range(1, 10):
        assert store.take_job("w", LEASE) is not None
        assert store.progress(job.id, "w", step=step)
        clock.time += LEASE + 1
    assert store.take_job("w", LEASE) is not None


def test_a_job_that_dies_at_the_same_place_again_and_again_is_given_up(store: Store, clock: Clock) -> None:
    job = queued(store)
    for _ in range(6):
        assert store.take_job("w", LEASE) is not None
        for step in (40, 41, 42):  # from its last save on, to where it dies
            store.progress(job.id, "w", step=step)
        clock.time += LEASE + 1
    assert store.take_job("w", LEASE) is None
    assert store.job(job.id).status == "failed"


def test_a_job_that_is_reopened_meanwhile_is_not_deleted(store: Store) -> None:
    """Between the look at its state and its removal, another process tries to queue it again."""
    job = queued(store)
    store.want(job.id, "cancel")
    look = Store._lock
    others: list[Future[Job]] = []

    def looked(self: Store, connection: Connection, job_id: str) -> Job:
        found = look(self, connection, job_id)
        if not others:
            others.append(pool.submit(store.reopen, job_id))
            wait(others, timeout=0.3)
        return found

    with ThreadPoolExecutor() as pool, patch.object(Store, "_lock", looked):
        store.delete_job(job.id)
        with pytest.raises(Missing):
            others[0].result()
    with pytest.raises(Missing):
        store.job(job.id)


def test_what_was_reopened_is_what_is_returned(store: Store) -> None:
    """Whoever takes the job at once does not change the answer."""
    job = queued(store)
    store.want(job.id, "cancel")
    with patch.object(Store, "job", side_effect=Missing("deleted by another process")):
        assert store.reopen(job.id).status == "queued"


def test_an_older_database_is_upgraded(store: Store, tmp_path: Path) -> None:
    job = queued(store)
    with store.engine.begin() as connection:
        for column in ("stalled", "furthest"):
            connection.exec_driver_sql(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute(update(tables.schema).values(version=1))
    again = Store.open(tmp_path, str(store.engine.url.render_as_string(hide_password=False)))
    taken = again.take_job("w", LEASE)
    assert taken is not None
    assert again.progress(job.id, "w", step=1)
    again.close()


def test_a_worker_that_stops_gives_its_job_back(store: Store) -> None:
    job = queued(store)
    for _ in range(9):  # more often than a job may lose workers
        assert store.take_job("w", LEASE) is not None
        assert store.release(job.id, "w")
    assert store.job(job.id).status == "queued"


def test_cancel_and_pause(store: Store, clock: Clock) -> None:
    waiting, running = queued(store), queued(store)
    assert store.want(waiting.id, "pause").paused
    taken = store.take_job("w", LEASE)
    assert taken is not None
    assert taken.id == running.id
    assert store.want(waiting.id, "run").wanted == "run"
    assert store.want(waiting.id, "cancel").status == "cancelled"
    assert store.want(running.id, "pause").status == "running"
    assert store.renew(running.id, "w", LEASE) == "pause"
    assert store.release(running.id, "w")
    assert store.job(running.id).paused
    assert store.take_job("w", LEASE) is None
    store.want(running.id, "run")
    assert store.take_job("w", LEASE) is not None
    assert store.want(running.id, "cancel").status == "running"
    assert store.want(running.id, "cancel").wanted == "cancel"
    with pytest.raises(Conflict, match="being cancelled"):
        store.want(running.id, "run")
    assert store.finish(running.id, "w", "cancelled")
    with pytest.raises(Conflict, match="cancelled"):
        store.want(running.id, "cancel")
    assert store.reopen(running.id).status == "queued"
    with pytest.raises(Conflict):
        store.reopen(running.id)


def test_wishes_hold_for_a_dead_workers_job(store: Store, clock: Clock) -> None:
    cancelled, paused = queued(store), queued(store)
    assert store.take_job("dead", LEASE) == store.job(cancelled.id)
    assert store.take_job("dead", LEASE) == store.job(paused.id)
    store.want(cancelled.id, "cancel")
    store.want(paused.id, "pause")
    clock.time += LEASE + 1
    assert store.take_job("alive", LEASE) is None
    assert store.job(cancelled.id).status == "cancelled"
    assert store.job(paused.id).paused


def test_pages(store: Store) -> None:
    jobs = [queued(store).id for _ in range(5)]
    page = store.jobs("fine_tuning", limit=2)
    assert ([job.id for job in page.data], page.has_more) == ([jobs[4], jobs[3]], True)
    page = store.jobs("fine_tuning", limit=3, after=jobs[3])
    assert ([job.id for job in page.data], page.has_more) == ([jobs[2], jobs[1], jobs[0]], False)
    assert len(store.jobs("fine_tuning", metadata={"run": "a"}).data) == 5
    assert not store.jobs("fine_tuning", metadata={"run": "b"}).data
    assert not store.jobs("benchmark").data
    with pytest.raises(Missing):
        store.jobs("benchmark", after=jobs[0])
    with pytest.raises(Missing):
        store.job(jobs[0], "benchmark")


def test_events_can_be_followed(store: Store) -> None:
    job = queued(store)
    first = store.note(job.id, "info", "one")
    store.note(job.id, "info", "two", {"loss": 1.0})
    [last] = store.events(job.id, after=first.id, order="asc").data
    assert (last.message, last.type, last.data) == ("two", "metrics", {"loss": 1.0})
    assert [event.message for event in store.events(job.id).data] == ["two", "one"]
    store.want(job.id, "cancel")
    store.delete_job(job.id)
    assert not store.events(job.id).data


def test_what_is_no_number_is_kept_as_null(store: Store) -> None:
    """Trainings that diverge measure such; JSON in PostgreSQL cannot hold it."""
    job = queued(store)
    store.take_job("w", LEASE)
    assert store.note(job.id, "info", "Step 1", {"loss": float("nan")}).id
    assert store.progress(job.id, "w", loss=float("inf"), step=1)
    assert store.events(job.id).data[0].data == {"loss": None}
    assert store.job(job.id).progress == {"loss": None, "step": 1}


def test_a_checkpoints_name_is_used_once(store: Store) -> None:
    job = queued(store)
    checkpoint = Checkpoint("ft:a:b:c", job.id, "a", "dpo", "adapter", 1, "checkpoints/ft:a:b:c", "0" * 64, {}, 1)
    store.publish(checkpoint)
    store.publish(checkpoint)  # by a worker that took the job up again
    assert store.checkpoints() == [checkpoint]
    store.point("prod", checkpoint.name)
    with pytest.raises(Conflict, match="prod"):
        store.delete_checkpoint(checkpoint.name)
    store.delete_alias("prod")
    store.delete_checkpoint(checkpoint.name)
    assert store.checkpoints() == []
    with pytest.raises(Missing):
        store.checkpoint(checkpoint.name)
    with pytest.raises(Conflict, match="deleted"):
        store.publish(checkpoint)
    store.want(job.id, "cancel")
    with pytest.raises(Conflict, match="checkpoints"):
        store.delete_job(job.id)


def test_aliases_move(store: Store) -> None:
    store.point("prod", "a")
    store.point("prod", "b")
    assert store.alias("prod").model == "b"
    assert [alias.name for alias in store.aliases()] == ["prod"]


def test_a_file_appears_whole_or_not_at_all(store: Store) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        store.write_file("evals", "x", Broken())  # type: ignore[arg-type]
    assert not list((store.folder / "files").iterdir())
    assert not store.files().data


def test_a_database_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    with store.engine.begin() as connection:
        connection.execute(update(tables.schema).values(version=99))
    with pytest.raises(ValueError, match="version 99"):
        Store.open(tmp_path, str(store.engine.url.render_as_string(hide_password=False)))
    with store.engine.begin() as connection:
        connection.execute(update(tables.schema).values(version=tables.VERSION))


def test_references_are_kept_whole(store: Store) -> None:
    values = {"id": "e", "job_id": "no such job", "created_at": 1, "level": "info", "type": "message", "message": ""}
    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        connection.execute(insert(tables.events).values(values))


async def test_a_database_that_does_not_answer_is_said_to() -> None:
    async with outthink() as client:
        with patch.object(Store, "file", side_effect=OperationalError("SELECT", {}, Exception("gone"))):
            reply = await client.get("/v1/files/x")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "database_unavailable")


async def test_a_value_that_the_database_cannot_hold_is_the_requests_fault(store: Store) -> None:
    """PostgreSQL has no NUL in its text, for which SQLite looks in vain."""
    url = store.engine.url.render_as_string(hide_password=False)
    async with outthink(settings=Settings(database_url=url)) as client:
        for path in ("/v1/files/a%00b", "/v1/fine_tuning/jobs?after=a%00b", "/v1/aliases/a%00b"):
            reply = await client.get(path)
            assert reply.status_code == (400 if "postgresql" in url or "after" in path else 404), reply.text
            assert reply.json()["error"]["type"] == "invalid_request_error"
