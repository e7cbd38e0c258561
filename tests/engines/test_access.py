"""The vLLMs that are ours answer to this service alone, whoever else is on the machine."""

from __future__ import annotations

import signal
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

from service.engines.access import read_engine_key, with_engine_key
from service.engines.command import GUARD, EngineFailed, Reward, scorer_command, vllm_command, vllm_environment
from service.engines.guard.outthink_guard import Guard
from service.engines.managed import ManagedCheckpoint, ManagedEngine
from service.engines.secret_files import read_secret, write_secret
from service.registry import scorers
from service.settings import Settings
from tests.conftest import chat, outthink, serving
from tests.upstream import Script, Upstream
from training.engine import Serving
from training.worker import Worker, serve


@asynccontextmanager
async def guarded(key: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A vLLM that was started with this key."""
    monkeypatch.setenv("VLLM_API_KEY", key)
    async with serving(Guard(Upstream([Script(body=b"{}")]).app())) as url:
        yield url


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/invocations", "/pause", "/version", "/"])
@pytest.mark.parametrize("key", ["right", ""], ids=["with a key", "without a key, by mistake"])
async def test_nobody_goes_round_the_service(path: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded(key, monkeypatch) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}):
            reply = await client.post(path, json={}, headers=headers)
            assert reply.status_code == 401, headers
            assert "Outthink" in reply.json()["error"]["message"]
        assert (await client.get("/health")).status_code == 200


async def test_the_service_has_the_key_of_its_own_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    key = read_engine_key(Settings()).get_secret_value()
    async with guarded(key, monkeypatch) as url:
        settings = Settings(engine_port=int(url.rpartition(":")[2]))
        async with outthink(settings=settings) as client:
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            assert (await client.post("/tokenize", json={"model": "smollm2", "prompt": "a"})).status_code == 200


def test_a_training_worker_that_is_started_by_hand_finds_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    used: list[Settings] = []
    monkeypatch.setattr(Worker, "run", lambda worker: used.append(worker.settings))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    serve(settings)
    with closing(Serving(used[0], "smollm2")) as serving:
        expected = f"Bearer {read_engine_key(settings).get_secret_value()}"
        assert serving.client.http.headers["authorization"] == expected


async def test_every_vllm_of_ours_gets_the_key_where_no_other_user_can_read_it(tmp_path: Path) -> None:
    settings = with_engine_key(Settings(scorers={"p": {"kind": "prm", "model": "m"}}))
    key = settings.engine_api_key.get_secret_value()
    (tmp_path / "config.json").write_text("{}")
    (backend,) = scorers.open_backends(settings, scorers.load(settings.scorers), manage=True).values()
    assert backend.process is not None
    full = ManagedCheckpoint(settings, "ft:x", tmp_path, 8125, places=1)
    for plan in (await ManagedEngine(settings, command=["x"])._plan(), await full._plan()):
        assert plan.environment["VLLM_API_KEY"] == key
        assert key not in " ".join(plan.command)
    assert backend.process.settings.engine_api_key.get_secret_value() == key
    assert backend.client.http.headers["authorization"] == f"Bearer {key}"
    await backend.close()


async def test_a_scorer_of_ours_does_not_get_the_key_of_somebody_elses_engine() -> None:
    tables = {"p": {"kind": "prm", "model": "m"}, "q": {"kind": "prm", "model": "n", "url": "http://x", "api_key": "q"}}
    settings = Settings(engine_url="http://y", engine_api_key="theirs", scorers=tables)
    backends = scorers.open_backends(settings, scorers.load(settings.scorers), manage=True)
    sent = {name: backend.client.http.headers["authorization"] for name, backend in backends.items()}
    own = read_secret(settings.data_dir, "engine.key")
    assert sent == {"p": f"Bearer {own}", "q": "Bearer q"}
    for backend in backends.values():
        await backend.close()


def test_the_guard_is_found_by_vllm_and_cannot_be_replaced_or_switched_off() -> None:
    settings = Settings(vllm_args="--middleware my.Own")
    commands = (
        vllm_command(settings, "m", cpu=True),
        scorer_command(settings, Reward("r", "--middleware my.Own"), cpu=True, context=None),
    )
    for command in commands:
        given = [command[i + 1] for i, word in enumerate(command) if word == "--middleware"]
        assert given == ["outthink_guard.Guard", "my.Own"]
    environment = vllm_environment(settings, {"PYTHONPATH": "/mine"}, cpu=True)
    assert environment["PYTHONPATH"] == f"{GUARD.parent}:/mine"
    with pytest.raises(EngineFailed, match="OUTTHINK_ENGINE_API_KEY"):
        vllm_command(Settings(vllm_args="--api-key secret"), "m", cpu=True)


def test_the_key_is_one_for_all_processes_of_a_data_directory_and_for_no_other_user(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data")
    keys = {with_engine_key(settings).engine_api_key.get_secret_value() for _ in range(2)}
    file = settings.data_dir / "engine.key"
    assert keys == {file.read_text()}
    assert len(file.read_text()) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    assert read_engine_key(other) not in keys
    assert [path.name for path in settings.data_dir.iterdir()] == ["engine.key"]


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ThreadPoolExecutor(8) as pool:
        for writing in [pool.submit(write_secret, path) for _ in range(32)]:
            writing.result()
        first = path.read_text()
        assert {pool.submit(read_secret, tmp_path, "s").result() for _ in range(8)} == {first}


def test_a_key_of_the_settings_is_kept() -> None:
    for fields in ({"engine_api_key": "mine"}, {"engine_api_key": "theirs", "engine_url": "http://x"}):
        settings = Settings.model_validate(fields)
        assert with_engine_key(settings).engine_api_key == settings.engine_api_key
        assert not (settings.data_dir / "engine.key").exists()
