"""vLLMs beside the base model's: started by name, at once as many as there are places, ended when nothing needs them.

The servers are small ones that answer /health as vLLM does; tests/integration/test_training.py has real ones.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.engines import fleet as module
from service.engines.backend import Backend
from service.engines.fleet import Fleet
from service.engines.managed import ManagedEngine, State
from service.settings import Settings
from service.web.bodies import cancel
from strategies.errors import EngineUnavailable
from tests.conftest import free_port
from tests.engines.test_managed import QUICK, SECONDS, SERVER

Build = Callable[..., Fleet]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints that have weights of their own, and where they are."""
    return {name: tmp_path / name for name in ("ft:a", "ft:b", "ft:c")}


@pytest.fixture
async def build(tmp_path: Path, folders: dict[str, Path]) -> AsyncIterator[Build]:
    """Fleets that are kept, and closed after the test; `code` is what their servers run."""
    settings = Settings(data_dir=tmp_path / "data", engine_port=free_port(4), first_byte_seconds=SECONDS)
    made: list[tuple[Fleet, asyncio.Task[None]]] = []

    def build(limit: int = 1, code: str = SERVER) -> Fleet:
        def make(name: str, path: Path, port: int) -> ManagedEngine:
            command = (sys.executable, "-I", "-c", code, str(port), str(tmp_path / "dead"))
            return ManagedEngine(settings.model_copy(update={"engine_port": port}), command=command, pace=QUICK)

        fleet = Fleet(settings, limit, folders.get, make)
        made.append((fleet, asyncio.create_task(fleet.keep())))
        return fleet

    yield build
    for fleet, keeping in made:
        await cancel(keeping)
        await fleet.close()
        assert all(member.state is State.STOPPED for member in fleet.members.values())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has nothing to do may go at once."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)


async def serving(fleet: Fleet, model: str) -> Backend:
    """The backend of a checkpoint that has weights of its own."""
    backend = await fleet.serving(model)
    assert backend is not None
    return backend


async def left(fleet: Fleet, *names: str) -> None:
    """Return when these and no others are served."""
    async with asyncio.timeout(SECONDS):
        while sorted(fleet.members) != sorted(names) or fleet.leaving:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)


async def test_the_base_serves_what_has_no_weights_of_its_own(build: Build) -> None:
    fleet = build()
    assert await fleet.serving("smollm2") is None
    assert fleet.members == {}


async def test_the_first_request_starts_a_server_and_waits_for_it(build: Build) -> None:
    fleet = build()
    first, second = await asyncio.gather(serving(fleet, "ft:a"), serving(fleet, "ft:a"))
    assert first is second
    assert await first.client.healthy()
    assert fleet.details == {"ft:a": "ready"}
    assert await serving(fleet, "ft:a") is first


async def test_the_next_one_starts_beside_it_and_the_old_one_goes_when_it_is_idle(
    build: Build, impatient: None
) -> None:
    fleet = build()
    old = await serving(fleet, "ft:a")
    with ExitStack() as requests:
        with old.request():
            new = await serving(fleet, "ft:b")
            requests.enter_context(new.request())  # at once: of the two, the first that rests is the one to go
            assert old.client.http.base_url.port != new.client.http.base_url.port
            assert await old.client.healthy(), "a request of the old one goes on"
            assert fleet.needless() == []
        await left(fleet, "ft:b")
        assert await new.client.healthy()


async def test_the_minute_of_one_that_started_slowly_begins_when_it_is_ready(build: Build) -> None:
    fleet = build()
    backend = await serving(fleet, "ft:a")
    assert backend.process is not None
    assert backend.used >= backend.process.since


async def test_there_is_no_place_for_a_third_while_two_are_in_use(build: Build) -> None:
    fleet = build()
    await asyncio.gather(serving(fleet, "ft:a"), serving(fleet, "ft:b"))
    with pytest.raises(EngineUnavailable, match=r"no place for ft:c.*OUTTHINK_FULL_MODELS.*ft:a, ft:b are in use"):
        await serving(fleet, "ft:c")


async def test_a_deleted_checkpoint_is_served_until_nobody_uses_it(
    build: Build, folders: dict[str, Path], impatient: None
) -> None:
    fleet = build()
    backend = await serving(fleet, "ft:a")
    with backend.request():
        del folders["ft:a"]
        assert fleet.needless() == []
        assert await serving(fleet, "ft:a") is backend, "a search goes on"
    await left(fleet)


async def test_one_that_cannot_be_started_is_forgotten_and_tried_again(build: Build, impatient: None) -> None:
    fleet = build(code="raise SystemExit('No module named vllm')")
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="ft:a cannot be served: vLLM failed 3 times to start"):
            await serving(fleet, "ft:a")
        await left(fleet)


async def test_a_request_that_leaves_does_not_stop_the_start(build: Build) -> None:
    fleet = build()
    asking = asyncio.create_task(serving(fleet, "ft:a"))
    await asyncio.sleep(0)  # it has begun
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await fleet.members["ft:a"].wait_ready(SECONDS)
