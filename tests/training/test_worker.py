"""The worker's side of a job: leases, reports, what is wanted, children that die. The children need no torch."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from service.engines import bundled
from service.engines.command import checkpoints
from service.jobs import Checkpoint, Job, Missing, Store
from service.jobs.published import publish
from service.settings import Settings
from tests.training.support import dies, hangs, lingers, queued, starts, trains, until
from training.task import Done
from training.worker import Pace, Work, Worker, metrics_id

QUICK = Pace(idle=0.01, renewal=0.02, lease=30, stop=0.2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", model=str(tmp_path))


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.data_dir)
    yield store
    store.close()


@pytest.fixture
def job(store: Store) -> Job:
    return queued(store)


def working(settings: Settings, store: Store, work: Work, pace: Pace = QUICK) -> tuple[Worker, threading.Thread]:
    """A worker that runs beside the test."""
    worker = Worker(settings, store, pace, work)
    thread = threading.Thread(target=worker.run)
    thread.start()
    return worker, thread


def child_of(settings: Settings, job: Job) -> int:
    """The pid of the child, once it works."""
    file = settings.data_dir / "jobs" / job.id / "pid"
    until(file.exists)
    return int(file.read_text())


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_what_the_child_reports_is_written_down(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, trains)
    until(lambda: store.job(job.id).ended)
    worker.stopping.set()
    thread.join()
    done = store.job(job.id)
    name = f"ft:smollm2:test:{job.short}"
    assert (done.status, done.progress, done.lease_owner) == ("succeeded", {"step": 1}, None)
    assert done.result["fine_tuned_model"] == name
    assert store.checkpoint(name).step == 1
    [file] = done.result["result_files"]
    assert store.file(file).purpose == "fine-tune-results"
    assert store.path(file).read_text().splitlines() == ["step,train_loss,valid_loss", "1,0.5,", "2,,0.25"]
    until(lambda: len(store.events(job.id).data) == 3)
    messages = [event.message for event in store.events(job.id, order="asc").data]
    assert messages == ["Step 1/1", f"Published {name}", "The job has succeeded"]


def test_what_comes_with_the_product_can_be_trained_further(settings: Settings, store: Store) -> None:
    settings = settings.model_copy(update={"full_models": 0})
    worker = Worker(settings, store, QUICK, trains)
    with pytest.raises(Missing, match="smollm2-sums is not installed"):
        worker.parent(bundled.NAME)
    about = {"method": "supervised", "step": 28, "created_at": 7, "metrics": {}}
    target = checkpoints(settings) / bundled.NAME
    publish(target, lambda folder: save_file({}, folder / "x.safetensors"), lambda _: None, about)
    assert worker.parent(bundled.NAME) == bundled.installed(settings)
    assert worker.parent("smollm2") is None


def test_a_child_that_dies_fails_its_job(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, dies)
    until(lambda: store.job(job.id).ended)
    worker.stopping.set()
    thread.join()
    done = store.job(job.id)
    assert done.status == "failed"
    assert done.error == {
        "code": "training_process_died",
        "message": "the training process ended with -9, perhaps for want of memory",
        "param": None,
    }


def test_cancel_kills_the_child_and_removes_what_it_kept(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, hangs)
    pid = child_of(settings, job)
    store.want(job.id, "cancel")
    until(lambda: store.job(job.id).ended)
    worker.stopping.set()
    thread.join()
    assert store.job(job.id).status == "cancelled"
    assert gone(pid)
    assert list((settings.data_dir / "jobs" / job.id).iterdir()) == []


def test_a_paused_job_keeps_what_it_has_and_waits(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, lingers)
    pid = child_of(settings, job)
    store.want(job.id, "pause")
    until(lambda: store.job(job.id).paused)
    assert gone(pid)
    assert (settings.data_dir / "jobs" / job.id / "checkpoint-1").is_dir()
    worker.stopping.set()
    thread.join()
    assert store.take_job("another", 30) is None
    store.want(job.id, "run")
    assert store.take_job("another", 30) is not None


@pytest.mark.parametrize("work", [starts, hangs])
def test_a_child_that_cannot_pause_is_ended(settings: Settings, store: Store, job: Job, work: Work) -> None:
    worker, thread = working(settings, store, work)
    pid = child_of(settings, job)
    store.want(job.id, "pause")
    until(lambda: store.job(job.id).paused)
    worker.stopping.set()
    thread.join()
    assert gone(pid)


def test_a_worker_that_stops_gives_its_job_back(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, lingers)
    pid = child_of(settings, job)
    worker.stopping.set()
    thread.join()
    assert gone(pid)
    assert (store.job(job.id).status, store.job(job.id).attempt) == ("queued", 0)
    assert store.take_job("another", 30) is not None


def test_a_worker_that_lost_its_lease_leaves_the_job_alone(settings: Settings, store: Store, job: Job) -> None:
    worker, thread = working(settings, store, hangs)
    pid = child_of(settings, job)
    later = Store(store.engine, store.folder, lambda: time.time() + 2 * QUICK.lease)  # for whom the lease has ended
    taken = later.take_job("another", QUICK.lease)
    until(lambda: gone(pid))
    worker.stopping.set()
    thread.join()
    assert taken is not None
    assert store.job(job.id).lease_owner == "another"
    assert (settings.data_dir / "jobs" / job.id / "checkpoint-1").is_dir()


def test_a_file_that_was_deleted_fails_the_job(settings: Settings, store: Store, job: Job) -> None:
    store.delete_file(job.spec["training_file"])
    worker, thread = working(settings, store, trains)
    until(lambda: store.job(job.id).ended)
    worker.stopping.set()
    thread.join()
    error = store.job(job.id).error
    assert error is not None
    assert error["code"] == "not_found"


def test_a_checkpoint_that_was_deleted_meanwhile_is_not_published_again(
    settings: Settings, store: Store, job: Job
) -> None:
    name = f"ft:smollm2:test:{job.short}"
    store.publish(merged(store, job, name))
    store.delete_checkpoint(name)
    (settings.data_dir / "checkpoints" / name).mkdir(parents=True)
    worker, thread = working(settings, store, trains)
    until(lambda: len(store.events(job.id).data) == 3)
    worker.stopping.set()
    thread.join()
    messages = [event.message for event in store.events(job.id, order="asc").data]
    assert messages[1] == f"{name} was deleted, and its name is not used again"
    assert store.job(job.id).status == "succeeded", "the worker goes on"
    assert not (settings.data_dir / "checkpoints" / name).exists()


def test_a_judge_with_weights_of_its_own_is_asked_through_the_service(settings: Settings, store: Store) -> None:
    first = queued(store)
    whole = merged(store, first, "ft:smollm2:b:2")
    adapter = replace(whole, name="ft:smollm2:a:1", form="adapter")
    for name, checkpoint in ((whole.name, whole), (adapter.name, adapter)):
        store.publish(checkpoint)
        judge = {"type": "score_model", "name": "j", "model": name, "input": [{"role": "user", "content": "?"}]}
        multi = {"type": "multi", "name": "m", "graders": {"a": judge}, "calculate_output": "a"}
        for grader in (judge, multi):
            judged = queued(store, method="reinforcement", grader=grader)
            assert Worker(settings, store).task(judged).judge_apart == (checkpoint is whole)
    assert not Worker(settings, store).task(first).judge_apart


def merged(store: Store, job: Job, name: str) -> Checkpoint:
    return Checkpoint(name, job.id, "smollm2", "supervised", "merged", 1, f"checkpoints/{name}", "0", {}, 7)


def test_the_worker_and_its_command_import_no_torch() -> None:
    code = "import sys, service.commands.main, training.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_killed_worker_left_of_an_ended_job_goes_when_one_starts(
    settings: Settings, store: Store, job: Job
) -> None:
    """Killed while it published, and again at the end; then the job was cancelled, which nobody had to notice."""
    checkpoints, kept = settings.data_dir / "checkpoints", settings.data_dir / "jobs" / job.id
    name = f"ft:smollm2:test:{job.short}"
    store.publish(merged(store, job, f"{name}:ckpt-step-1"))
    known, unknown, others = f"{name}:ckpt-step-1", name, "ft:smollm2:test:other"
    for folder in (known, unknown, others, f".{name}.ab.partial"):
        (checkpoints / folder).mkdir(parents=True)
    (kept / "checkpoint-1").mkdir(parents=True)
    (kept / "train.log").write_text("Step 1")
    store.stage_file("fine-tune-results", "metrics.csv", b"step\n", metrics_id(job.id))
    store.want(job.id, "cancel")
    before = store.files().data
    worker, thread = working(settings, store, trains)
    until(lambda: not (checkpoints / unknown).exists())
    worker.stopping.set()
    thread.join()
    assert {path.name for path in checkpoints.iterdir()} == {known, others}
    assert [path.name for path in kept.iterdir()] == ["train.log"]
    assert store.files().data == before
    assert {path.name for path in (store.folder / "files").iterdir()} == {file.id for file in before}


def test_what_only_another_database_knows_is_not_removed(settings: Settings, store: Store) -> None:
    unknown = settings.data_dir / "jobs" / "ftjob-of-another-database" / "checkpoint-1"
    unknown.mkdir(parents=True)
    Worker(settings, store).sweep()
    assert unknown.exists()


def test_the_metrics_of_a_job_that_was_taken_over_do_not_appear(settings: Settings, store: Store, job: Job) -> None:
    before = {path.name for path in (store.folder / "files").iterdir()}
    assert store.take_job("another", 30) is not None
    assert not Worker(settings, store).finish(job, Done({}, [{"step": 1}]))
    assert {path.name for path in (store.folder / "files").iterdir()} == before
    assert [file.purpose for file in store.files().data] == ["fine-tune"]
