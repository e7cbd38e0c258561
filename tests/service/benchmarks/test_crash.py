"""kill -9 of the service in the middle of a benchmark: the next one ends it, with the same table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port
from tests.service.benchmarks.asking import PATH, request, without_time

ROOT = Path(__file__).parents[3]
SECONDS = 120.0  # for things that take one; only a failing test waits that long
STRATEGIES = ["self_consistency", {"type": "beam_search", "scorer": "logprob"}]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, f"not so after {SECONDS:.0f} s"
        time.sleep(0.02)


@contextmanager
def server(data: Path, *turns: int) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = free_port()
    command = [sys.executable, "-m", "tests.service.benchmarks.scripted_server", str(port), *map(str, turns)]
    environment = os.environ | {"OUTTHINK_DATA_DIR": str(data)}
    with (
        (data / "server.log").open("ab") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SECONDS) as client,
    ):
        try:
            wait_for(lambda: answers(process, client))
            yield process, client
        finally:
            process.kill()


def answers(process: subprocess.Popen[bytes], client: httpx.Client) -> bool:
    assert process.poll() is None, "the server did not start"
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def ended(client: httpx.Client, benchmark_id: str) -> dict[str, Any]:
    with client.stream("GET", f"{PATH}/{benchmark_id}/events") as stream:
        assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]
    found: dict[str, Any] = client.get(f"{PATH}/{benchmark_id}").json()
    return found


def test_kill_9_in_the_middle_then_the_same_table(tmp_path: Path) -> None:
    body = request(strategies=STRATEGIES, dataset={"name": "arithmetic", "questions": 20})
    with server(tmp_path, 150) as (process, client):
        created = client.post(PATH, json=body).json()
        (folder,) = (tmp_path / "benchmarks").iterdir()
        samples = folder / "samples.jsonl"
        wait_for(lambda: samples.exists() and samples.read_bytes().count(b"\n") >= 25)
        process.kill()
        process.wait()
    before = samples.read_bytes()
    kept = before[: before.rindex(b"\n") + 1]
    assert 25 <= kept.count(b"\n") < created["grid"]["requests"]
    samples.write_bytes(kept + b'{"task":0,"index":')  # as if it had died while it wrote
    with server(tmp_path) as (_, client):
        job = ended(client, created["id"])
        fresh = ended(client, client.post(PATH, json=body).json()["id"])
    after = [json.loads(line) for line in samples.read_bytes().splitlines()]
    assert samples.read_bytes().startswith(kept)
    keys = [(line["task"], line["index"], line["seed"]) for line in after]
    assert len(keys) == len(set(keys)) == created["grid"]["requests"]
    assert job["status"] == fresh["status"] == "succeeded"
    assert without_time(job["results"]) == without_time(fresh["results"])
    assert job["fits"] == fresh["fits"]
    assert "Traceback" not in (tmp_path / "server.log").read_text()
