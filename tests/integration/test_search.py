"""Searches over steps on a real vLLM: true counts and a real tree."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.integration.asking import MODEL, asked
from tests.integration.server import Counters, Server
from tests.integration.test_usage import answered, before, counted

__all__ = ["before"]  # a fixture

STEP = {"delimiter": "\n", "max_tokens": 12}
SEARCHES: dict[str, dict[str, Any]] = {
    "beam_search": {"beams": 4, "width": 2},
    "dvts": {"beams": 4, "width": 2, "trees": 2},
    "lookahead": {"beams": 2, "width": 2, "lookahead": 1},
    "particle_filter": {"particles": 4},
    "mcts": {"iterations": 6, "width": 2, "wave": 2},
    "rollout": {"iterations": 2, "width": 2, "wave": 2, "value": "rollout"},
}
TYPES = {"dvts": "beam_search", "lookahead": "beam_search", "rollout": "mcts"}
each_search = pytest.mark.parametrize("name", SEARCHES)


def body(name: str) -> dict[str, Any]:
    strategy = {"type": TYPES.get(name, name), "max_steps": 4, "step": STEP, **SEARCHES[name]}
    return {"strategy": strategy, "include": ["candidates"]}


def ask(client: openai.OpenAI, name: str, stream: bool = False) -> tuple[dict[str, Any], Any]:
    question = asked("Count from 1 to 9, each number on a line of its own, with a word about it.")
    return answered(client, stream, messages=question, max_tokens=64, seed=7, extra_body=body(name))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@each_search
def test_reported_tokens_are_counted_tokens(
    server: Server, client: openai.OpenAI, before: Counters, name: str, stream: bool
) -> None:
    told, usage = ask(client, name, stream)
    policy, scorer = told["usage"]["policy"], told["usage"]["scorer"]
    sums = [policy[what] + scorer[what] for what in ("completion", "prompt")]
    assert counted(server, before, sums[0], sums[1]) == tuple(sums)
    assert usage.completion_tokens == policy["completion"]
    assert scorer["completion"] > 0


@each_search
def test_the_tree_is_real(server: Server, client: openai.OpenAI, name: str) -> None:
    told, _ = ask(client, name)
    tree = {node["id"]: node for node in told["candidates"]}
    assert max(node["depth"] for node in tree.values()) >= 2
    for node in tree.values():
        assert node["parent"] is None or tree[node["parent"]]["depth"] == node["depth"] - 1
    scored = [node for node in tree.values() if node["scores"]]
    assert all(0 <= score <= 1 for node in scored for score in node["scores"])
    assert len(scored) > len(tree) / 2
    assert told["rounds"] > 1


@pytest.mark.parametrize("name", ["beam_search", "mcts"])
def test_a_path_reads_as_its_steps(client: openai.OpenAI, name: str) -> None:
    question = asked("Count from 1 to 9, each number on a line of its own, with a word about it.")
    reply = client.chat.completions.create(model=MODEL, messages=question, max_tokens=64, seed=7, extra_body=body(name))
    tree = {node["id"]: node for node in (reply.model_extra or {})["outthink"]["candidates"]}

    def text(node: dict[str, Any]) -> str:
        return (text(tree[node["parent"]]) if node["parent"] is not None else "") + str(node["text"])

    assert reply.choices[0].message.content in {text(node) for node in tree.values()}
