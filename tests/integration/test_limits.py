"""Many at once, limits of a key, and going down, with a real vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.conftest import free_port
from tests.integration.asking import ENDLESS, MODEL, asked, extras, strategy, text
from tests.integration.server import (
    BRANCHES,
    LIMITED_KEY,
    REQUESTS,
    ROOT,
    STOP_SECONDS,
    TOKENS,
    Server,
    environment,
    stop,
    wait_for,
    wait_ready,
)


def test_limits_of_a_key_are_told_and_kept(base_url: str, client: openai.OpenAI) -> None:
    free = client.chat.completions.with_raw_response.create(model=MODEL, messages=asked(), max_tokens=2)
    assert not [name for name in free.headers if name.startswith("x-ratelimit")]
    with openai.OpenAI(base_url=base_url, api_key=LIMITED_KEY, max_retries=0, timeout=120) as limited:
        create = limited.chat.completions.with_raw_response.create
        plain = create(model=MODEL, messages=asked(), max_tokens=8)
        search = create(model=MODEL, messages=asked(), max_tokens=8, extra_body=strategy(samples=4))
        for number, reply in enumerate((plain, search), 1):
            assert reply.headers["x-ratelimit-limit-requests"] == str(REQUESTS)
            assert reply.headers["x-ratelimit-remaining-requests"] == str(REQUESTS - number)
            assert reply.headers["x-ratelimit-limit-tokens"] == str(TOKENS)
            assert int(reply.headers["x-ratelimit-remaining-tokens"]) < TOKENS
            assert reply.headers["x-ratelimit-reset-tokens"].endswith("s")
        create(model=MODEL, messages=asked(), max_tokens=2)
        with pytest.raises(openai.RateLimitError) as error:
            create(model=MODEL, messages=asked(), max_tokens=2)
        assert error.value.code == "rate_limit_exceeded"
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 120
        assert LIMITED_KEY not in error.value.response.text


async def test_searches_of_one_key_do_not_hold_up_another(
    server: Server, aclient: openai.AsyncOpenAI, base_url: str, admin_key: str
) -> None:
    """The second search of one key would fill the server and waits; another key's, which came later, does not."""
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    half = strategy(samples=BRANCHES // 2) | ENDLESS
    ask = aclient.chat.completions.create
    searches = [
        asyncio.create_task(ask(model=MODEL, messages=asked(), max_tokens=4000, extra_body=half)) for _ in range(2)
    ]
    try:
        await asyncio.to_thread(wait_for, lambda: server.metric("outthink_queued_requests") == 1)
        async with openai.AsyncOpenAI(base_url=base_url, api_key=admin_key, max_retries=0, timeout=60) as other:
            reply = await other.chat.completions.create(
                model=MODEL, messages=asked(), max_tokens=4, extra_body=strategy(samples=2)
            )
        assert text(reply)
        assert server.metric("outthink_queued_requests") == 1
        assert not any(search.done() for search in searches)
    finally:
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)


@contextmanager
def beside(server: Server, folder: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
    """Another service in front of the same vLLM, to be stopped by the test."""
    config, log, port = folder / "outthink.toml", folder / "service.log", free_port()
    config.write_text("")
    variables = environment(folder, config, port, free_port())
    variables |= {"OUTTHINK_ENGINE_URL": server.engine, "OUTTHINK_ENGINE_API_KEY": server.engine_key}
    variables |= {f"OUTTHINK_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "service", "serve"], cwd=ROOT, stderr=output, env=variables)
    other = Server(f"http://127.0.0.1:{port}", server.engine, log=log)
    try:
        wait_ready(process, other, lambda _: None)
        yield process, other
    finally:
        stop(process)


@pytest.mark.parametrize("signals", [1, 2])
async def test_going_down_stops_a_search_with_the_best_so_far(
    server: Server, key: str, tmp_path: Path, signals: int
) -> None:
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)
    with beside(server, tmp_path, drain_seconds=6 if signals == 1 else 600) as (process, other):
        async with openai.AsyncOpenAI(base_url=other.api, api_key=key, max_retries=0, timeout=60) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(
                    model=MODEL, messages=asked(), max_tokens=4000, extra_body=strategy() | ENDLESS
                )
            )
            await asyncio.to_thread(wait_for, lambda: server.counters().running == 4, 20)
            os.kill(process.pid, signal.SIGTERM)
            await asyncio.to_thread(wait_for, lambda: ready(other) == 503)
            with pytest.raises(openai.InternalServerError) as refused:
                await client.chat.completions.create(model=MODEL, messages=asked(), max_tokens=2)
            assert refused.value.code == "shutting_down"
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 120
            if signals == 1:
                reply = await asking
                assert reply.choices[0].finish_reason == "length"
                assert extras(reply)["stopped_by"] == "seconds"
            else:
                os.kill(process.pid, signal.SIGTERM)
                with pytest.raises(openai.InternalServerError):
                    await asking
        await asyncio.to_thread(process.wait, STOP_SECONDS)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in other.logs()
    await asyncio.to_thread(wait_for, lambda: server.counters().idle)


def ready(server: Server) -> int:
    return server.ready().status_code
