"""The training worker beside the service: kept running, and never left behind."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from service.engines import training_worker
from service.engines.process import Launch, Watched
from service.settings import Settings
from service.web.bodies import cancel

TELLS = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(float(sys.argv[2]))"


def command(file: Path, seconds: float) -> tuple[str, ...]:
    return (sys.executable, "-c", TELLS, str(file), str(seconds))


async def pids(file: Path, count: int) -> list[int]:
    """The processes that told of themselves, when there are so many."""
    return await asyncio.to_thread(waited_for, file, count)


def waited_for(file: Path, count: int) -> list[int]:
    until = time.monotonic() + 120  # only a failing test waits that long
    while len(lines := file.read_text().split() if file.exists() else []) < count:
        assert time.monotonic() < until
        time.sleep(0.01)  # another process writes: there is no event to wait for
    return list(map(int, lines))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_worker_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_worker, "FIRST_PAUSE", 0.01)
    file = tmp_path / "pids"
    keeping = asyncio.create_task(training_worker.keep_worker(Settings(data_dir=tmp_path / "data"), command(file, 0)))
    first, second, *_ = await pids(file, 2)
    assert first != second
    await cancel(keeping)


async def test_a_worker_ends_with_the_service(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    keeping = asyncio.create_task(training_worker.keep_worker(Settings(data_dir=tmp_path / "data"), command(file, 600)))
    [pid] = await pids(file, 1)
    assert alive(pid)
    await cancel(keeping)
    assert not alive(pid)


async def test_being_told_to_end_while_it_ends_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with (tmp_path / "log").open("wb") as log:
        process = Watched(Launch(command(file, 600), os.environ), log, tmp_path / "pidfile", 5)
    [pid] = await pids(file, 1)
    ending = asyncio.create_task(process.end())
    await asyncio.sleep(0)  # it has begun
    await cancel(ending)
    assert ending.cancelled()
    assert process.process.returncode is not None
    assert not alive(pid)


async def test_one_folder_has_one_worker_of_its_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    file, other = tmp_path / "pids", tmp_path / "others"
    keeping = asyncio.create_task(training_worker.keep_worker(settings, command(file, 600)))
    [pid] = await pids(file, 1)
    monkeypatch.setattr(training_worker, "GRACE_SECONDS", -5)  # no time to wait for the first one's end
    await training_worker.keep_worker(settings, command(other, 600))
    assert "another Outthink trains" in caplog.text
    assert alive(pid)
    assert not other.exists()
    await cancel(keeping)


def test_this_environment_can_train() -> None:
    assert not training_worker.missing_packages()
    assert os.access(training_worker.COMMAND[0], os.X_OK)
