"""The server of a measurement: the service with its training worker and the demo model, or another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.servers import free_port, running
from service.settings import PREFIX

WEIGHTS_AT_ONCE = 2
"""vLLMs with a checkpoint's weights: the model that is compared, and the verifier."""


@contextmanager
def serve(folder: Path, model: Path | None = None) -> Iterator[httpx.Client]:
    """Run it, whatever the shell has set, over a folder that stays. `model` is a folder in place of the demo model."""
    for name in [name for name in os.environ if name.startswith(PREFIX) and name != f"{PREFIX}CACHE_DIR"]:
        del os.environ[name]
    port = free_port()
    own = {"PORT": port, "DATA_DIR": folder / "data", "ENGINE_PORT": free_port(), "FULL_MODELS": WEIGHTS_AT_ONCE}
    if model is not None:
        own["MODEL"] = model
    environment = {f"{PREFIX}{name}": str(value) for name, value in (own | {"LOG_LEVEL": "WARNING"}).items()}
    with (
        running(["service", "serve"], port, "/ready", environment) as server,
        httpx.Client(base_url=f"{server.url}/v1", timeout=600, trust_env=False) as client,
    ):
        yield client
