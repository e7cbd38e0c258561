"""A request without a strategy gets what vLLM itself would have answered: the same fields, the same values."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.integration.asking import MODEL, WEATHER, asked
from tests.integration.server import Server

GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 12}
CHAT = GREEDY | {"messages": asked("Name a colour.")}
CHATS: dict[str, dict[str, Any]] = {
    "plain": CHAT,
    "logprobs": CHAT | {"logprobs": True, "top_logprobs": 2},
    "several": CHAT | {"n": 2, "temperature": 0.8, "seed": 7},
    "stop": CHAT | {"stop": ["e"]},
    "json": CHAT | {"response_format": {"type": "json_object"}},
    "tools": CHAT | {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60},
    "token_ids": CHAT | {"return_token_ids": True},
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/completions", GREEDY | {"prompt": "One, two, three,", "echo": True}),
    "token prompts": ("/v1/completions", GREEDY | {"prompt": [[19556, 28], [19556]], "return_token_ids": True}),
    "responses": (
        "/v1/responses",
        {"model": MODEL, "input": "Name a colour.", "temperature": 0, "max_output_tokens": 16},
    ),
    "tokenize": ("/tokenize", {"model": MODEL, "prompt": "Hello, world"}),
    "tokenize chat": ("/tokenize", {"model": MODEL, "messages": asked()}),
}
PASSING = frozenset({"id", "created", "created_at", "item_id", "request_id"})
"""What differs between any two replies of vLLM."""


def lasting(value: Any) -> Any:
    """A reply without what differs between any two."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in PASSING}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def post(url: str, body: dict[str, Any], key: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)


def same(server: Server, key: str, path: str, body: dict[str, Any]) -> tuple[httpx.Response, httpx.Response]:
    """Both replies, with equal status and type; the prompt is in the prefix cache for both, which share none of it."""
    for url, allowed in ((server.engine, server.engine_key), (server.url, key)):
        post(f"{url}{path}", body, allowed)
    theirs = post(f"{server.engine}{path}", body, server.engine_key)
    ours = post(f"{server.url}{path}", body, key)
    assert theirs.status_code == ours.status_code == 200, ours.text
    assert theirs.headers["content-type"] == ours.headers["content-type"]
    return theirs, ours


def events(reply: httpx.Response) -> list[Any]:
    """The events of a stream, `[DONE]` included; tokens that vLLM happened to send together are sent apart or not."""
    lines = [line for line in reply.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    found: list[Any] = []
    for line in lines:
        event: Any = line[6:] if line == "data: [DONE]" else lasting(json.loads(line[6:]))
        if found and mergeable(found[-1]) and mergeable(event):
            found[-1]["choices"][0]["delta"]["content"] += event["choices"][0]["delta"]["content"]
        else:
            found.append(event)
    return found


def mergeable(event: Any) -> bool:
    """Whether it is nothing but text of the first choice."""
    if not isinstance(event, dict) or len(event["choices"]) != 1:
        return False
    choice = event["choices"][0]
    bare = not (choice.get("logprobs") or choice.get("token_ids") or choice.get("finish_reason") or choice["index"])
    return bare and list(choice["delta"]) == ["content"]


@pytest.mark.parametrize("case", CHATS)
def test_plain_reply_is_vllms_own(server: Server, key: str, case: str) -> None:
    theirs, ours = same(server, key, "/v1/chat/completions", CHATS[case])
    assert lasting(ours.json()) == lasting(theirs.json())
    assert list(ours.json()) == list(theirs.json())


@pytest.mark.parametrize("case", [case for case in CHATS if case != "several"])
def test_plain_stream_is_vllms_own(server: Server, key: str, case: str) -> None:
    body = CHATS[case] | {"stream": True, "stream_options": {"include_usage": True}}
    theirs, ours = same(server, key, "/v1/chat/completions", body)
    assert events(ours) == events(theirs)
    assert events(ours)[-1] == "[DONE]"


@pytest.mark.parametrize("case", OTHERS)
def test_other_endpoints_are_vllms_own(server: Server, key: str, case: str) -> None:
    path, body = OTHERS[case]
    theirs, ours = same(server, key, path, body)
    assert lasting(ours.json()) == lasting(theirs.json())


def test_streamed_completion_is_vllms_own(server: Server, key: str) -> None:
    body = GREEDY | {"prompt": "One, two, three,", "stream": True, "stream_options": {"include_usage": True}}
    theirs, ours = same(server, key, "/v1/completions", body)

    def told(reply: httpx.Response) -> tuple[str, Any, str]:
        *lines, usage, done = [line[6:] for line in reply.text.split("\n\n") if line]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines), lasting(json.loads(usage)), done

    assert told(ours) == told(theirs)
    assert told(ours)[2] == "[DONE]"


def test_streamed_response_is_vllms_own(server: Server, key: str) -> None:
    body = OTHERS["responses"][1] | {"stream": True}
    theirs, ours = same(server, key, "/v1/responses", body)

    def kinds(reply: httpx.Response) -> list[str]:
        named = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
        return [kind for i, kind in enumerate(named) if named[i - 1 : i] != [kind]]  # runs of deltas count once

    assert kinds(ours) == kinds(theirs)
    assert kinds(ours)[0] == "response.created"
