"""No request keeps the event loop from others for long, however large it is."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from service.engines.scripted import Reply, ScriptedEngine
from service.settings import Settings
from tests.conftest import chat, outthink
from tests.watchdog import watched

STALL_SECONDS = 0.1
STEP = {"max_tokens": 8}
# The scripted engine runs in the same loop, as does the client: their share is counted, too.
LARGE: dict[str, dict[str, Any]] = {
    "self_consistency": {"samples": 512},
    "best_of_n": {"samples": 512, "scorer": "logprob"},
    "stopping": {"type": "self_consistency", "samples": 512, "stop": {"rule": "adaptive"}},
    "equations": {"type": "best_of_n", "samples": 512, "scorer": "equations"},
    "beam_search": {"beams": 256, "width": 4, "max_steps": 4, "step": STEP, "scorer": "logprob"},
    "particle_filter": {"particles": 256, "max_steps": 4, "step": STEP, "scorer": "logprob"},
    "mcts": {"width": 64, "wave": 4, "iterations": 28, "max_steps": 3, "step": STEP, "scorer": "logprob"},
}


async def turn() -> None:
    """As an engine that is somewhere else: others have their turn between any two events."""
    await asyncio.sleep(0)


@pytest.mark.parametrize("name", LARGE)
async def test_a_large_request_does_not_keep_the_loop(name: str) -> None:
    """Nearly every answer is another one, which is the most there is to compare."""

    def script(prompt: str, branch: int) -> Reply:
        number = hash((prompt, branch)) % 10**6
        return Reply(f"So it is\n\nThe answer is {number}.")

    settings = Settings(max_samples=512, max_branches=1024)
    async with outthink(ScriptedEngine(script, turn), settings=settings) as client:
        await client.post("/v1/chat/completions", json=chat(strategy="self_consistency"))  # starts the answer pool
        body = chat(strategy={"type": name, **LARGE[name]}, max_tokens=64, seed=1)
        gc.collect()
        gc.freeze()  # as `outthink serve` does
        async with watched() as loop:
            reply = await client.post("/v1/chat/completions", json=body, timeout=600)
    gc.unfreeze()
    assert reply.status_code == 200, reply.text
    assert loop.longest < STALL_SECONDS, f"{loop.longest:.3f} s of {loop.spent:.3f} s"
