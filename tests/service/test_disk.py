"""What outlives a power cut, and who may read it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.disk import make_folder
from service.engines.secret_files import read_secret
from service.jobs import Store
from service.jobs.journal import Journal
from service.jobs.published import publish
from service.settings import Settings
from tests.conftest import outthink


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Mapping[Path, set[str]]:
    """What every folder listed when it was synced last: the names that a power cut leaves."""
    lasting: dict[Path, set[str]] = {}
    fsync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            lasting[path] = {entry.name for entry in path.iterdir()}
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return lasting


def lasts(path: Path, top: Path, synced: Mapping[Path, set[str]]) -> bool:
    """Whether a power cut leaves a path, from the folder at the top on."""
    names = [path, *path.parents]
    return all(name.name in synced.get(name.parent, ()) for name in names[: names.index(top)])


def test_every_name_outlives_a_power_cut(tmp_path: Path, synced: Mapping[Path, set[str]]) -> None:
    data = tmp_path / "data"
    store = Store.open(data)
    file = store.write_file("evals", "rows.jsonl", b"{}\n")
    assert lasts(store.path(file.id), tmp_path, synced)
    job = store.create_job("distillation", "m", {})
    store.take_job("w", 30, ("distillation",))
    staged = store.stage_file("evals", "rows.jsonl", b"{}\n")
    assert store.finish(job.id, "w", "succeeded", files=[staged])
    assert lasts(store.path(staged.file.id), tmp_path, synced)
    store.close()
    journal = Journal(data / "benchmarks" / "1" / "samples.jsonl")
    journal.append([{}])
    assert lasts(journal.path, tmp_path, synced)
    read_secret(data, "engine.key")
    assert lasts(data / "engine.key", tmp_path, synced)


def test_published_weights_outlive_a_power_cut(tmp_path: Path, synced: Mapping[Path, set[str]]) -> None:
    target = tmp_path / "data" / "checkpoints" / "ft:x"
    publish(target, lambda folder: (folder / "a.safetensors").write_bytes(b"x"), lambda folder: None, {})
    assert lasts(target, tmp_path, synced)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_the_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data")
    async with outthink(settings=settings):  # which makes a secret before the database
        assert mode(settings.data_dir) == 0o700
        assert {mode(path) for path in settings.data_dir.glob("*.key")} == {0o600}


def test_an_open_data_directory_is_told_of_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed, opened = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(0o700)
    opened.mkdir()
    opened.chmod(0o750)
    with caplog.at_level(logging.WARNING):
        Store.open(closed).close()
        assert not caplog.messages
        Store.open(opened).close()
    assert caplog.messages == [f"other users may read {opened}, where prompts and keys are kept: chmod 700 {opened}"]
    assert mode(opened) == 0o750


def test_a_secret_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    secret = read_secret(tmp_path, "engine.key")
    (tmp_path / "engine.key").chmod(0o644)
    assert read_secret(tmp_path, "engine.key") == secret
    assert mode(tmp_path / "engine.key") == 0o600


def test_only_the_last_folder_has_the_mode(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", 0o700)
    assert (mode(tmp_path / "a") & 0o700, mode(tmp_path / "a" / "b")) == (0o700, 0o700)
