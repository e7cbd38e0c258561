"""What keys see of each other, and other users of the machine of the engine, on the real one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.asking import MODEL, strategy
from tests.integration.server import Server, wait_for

OPEN_WITHOUT = ("/v1/chat/completions", "/v1/load_lora_adapter", "/invocations", "/tokenize", "/pause", "/pooling")


def cached(server: Server, key: str, prompt: str, **fields: Any) -> int:
    """How much of a prompt was in the cache, by the reply."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 2, "seed": 1, **fields}
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.post(f"{server.api}/chat/completions", json=body, headers=headers, trust_env=False, timeout=60)
    told = reply.raise_for_status().json()
    if "outthink" in told:
        return int(told["outthink"]["usage"]["policy"]["cached"])
    return int((told["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0)


@pytest.mark.parametrize("fields", [{}, strategy("chain_of_thought")], ids=["plain", "with a strategy"])
def test_what_is_in_the_cache_is_ones_own(server: Server, key: str, admin_key: str, fields: dict[str, Any]) -> None:
    prompt = f"{uuid4()} is the secret of a client. " * 8
    assert cached(server, key, prompt, **fields) == 0
    assert cached(server, key, prompt, **fields) > 100, "what it has sent itself"
    assert cached(server, admin_key, prompt, **fields) == 0, "what another has sent"
    assert cached(server, key, prompt, cache_salt="a user of the client's", **fields) == 0


def test_nobody_goes_round_the_service(server: Server) -> None:
    wait_for(lambda: server.ready().json()["scorers"]["prm"] == "ready", 120)
    for url in (server.engine, server.scorer):
        for path in OPEN_WITHOUT:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "prompt": "a", "input": "a"}
            assert httpx.post(f"{url}{path}", json=body, trust_env=False).status_code == 401, path
