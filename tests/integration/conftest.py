"""One real server for all tests of this package, started when the first of them needs it.

For developing, OUTTHINK_TEST_URL, OUTTHINK_TEST_ENGINE and OUTTHINK_TEST_ENGINE_KEY (and OUTTHINK_TEST_LOG) point at a
server that runs already, with the keys and the configuration of server.py.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.server import ADMIN_KEY, CLIENT_KEY, Counters, Server, running

HERE = Path(__file__).parent


RERUNS = 2
"""Many of these tests are of promises in seconds, and a machine that is shared may leave one process without a
processor while others go on: half a minute was seen, vLLM generating all the while. What fails three times is wrong."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.flaky(reruns=RERUNS))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("OUTTHINK_TEST_URL"):
        log = os.environ.get("OUTTHINK_TEST_LOG")
        engine, engine_key = os.environ["OUTTHINK_TEST_ENGINE"], os.environ.get("OUTTHINK_TEST_ENGINE_KEY", "")
        yield Server(url, engine, log=Path(log) if log else None, given_engine_key=engine_key)
        return
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", end="", flush=True)

    with running(tmp_path_factory.mktemp("server"), say) as server:
        yield server


@pytest.fixture(scope="session")
def base_url(server: Server) -> str:
    """What an OpenAI client is given."""
    return server.api


@pytest.fixture(scope="session")
def key() -> str:
    return CLIENT_KEY


@pytest.fixture(scope="session")
def admin_key() -> str:
    return ADMIN_KEY


@pytest.fixture(scope="session")
def engine_metrics(server: Server) -> Callable[[], Counters]:
    """vLLM's own counters, now."""
    return server.counters


@pytest.fixture(scope="session")
def client(base_url: str, key: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own client; without retries, so that an error is seen when it happens."""
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def aclient(base_url: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120) as client:
        yield client
