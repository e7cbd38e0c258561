"""A benchmark of the real model: its tokens are vLLM's own, its files and its report are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.server import ADMIN_KEY, Server, wait_for

REQUEST: dict[str, Any] = {
    "name": "Sums",
    "dataset": {"name": "arithmetic", "questions": 3, "steps": 1, "digits": 1},
    "strategies": [
        "self_consistency",
        {"type": "best_of_n", "scorer": "judge"},
        {"type": "beam_search", "samples": [2], "max_steps": 2, "step": {"delimiter": "\n", "max_tokens": 16}},
    ],
    "samples": [1, 2, 4],
    "sampling": {"max_tokens": 48},
}


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=server.api, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def test_the_tokens_of_a_benchmark_are_vllms(admin: httpx.Client, server: Server) -> None:
    wait_for(lambda: server.counters().idle)
    before = server.counters()
    job = admin.post("/benchmarks", json=REQUEST).raise_for_status().json()
    assert job["grid"]["requests"] == 9
    with admin.stream("GET", f"/benchmarks/{job['id']}/events", timeout=300) as stream:
        assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]
    done = admin.get(f"/benchmarks/{job['id']}").json()
    assert done["status"] == "succeeded"
    assert [(cell["strategy"]["type"], cell["samples"]) for cell in done["results"]] == [
        *(("self_consistency", k) for k in (1, 2, 4)),
        *(("best_of_n", k) for k in (1, 2, 4)),
        ("beam_search", 2),
    ]
    lines = [json.loads(line) for line in admin.get(f"/benchmarks/{job['id']}/samples.jsonl").text.splitlines()]
    assert len(lines) == 9
    usage = [part for line in lines for part in line["usage"].values()]
    spent = [sum(part[name] for part in usage) for name in ("completion", "prompt")]

    def counted() -> list[int]:
        after = server.counters()
        return [after.generation - before.generation, after.prompt - before.prompt]

    wait_for(lambda: counted() == spent and server.counters().idle)
    report = admin.get(f"/benchmarks/{job['id']}/report")
    assert report.headers["content-type"].startswith("text/html")
    assert "<svg" in report.text
