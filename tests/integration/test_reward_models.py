"""Reward models under vLLM's pooling runner: its scores are those of transformers' own forward pass, also when many are
asked for at once, and the tokens that they cost are reported."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
import openai
import pytest

from tests.integration.asking import MODEL, asked, extras
from tests.integration.server import Counters, Server, pooling, samples, wait_for
from tests.integration.test_usage import before, counted

__all__ = ["before"]  # a fixture

QUESTION = "Count from 1 to 9, each number on a line of its own, with a word about it."
STEP = {"delimiter": "\n", "max_tokens": 12}
BEAMS = {"type": "beam_search", "beams": 4, "width": 2, "max_steps": 5, "step": STEP}
TOLERANCE = 1e-2


@pytest.fixture(scope="module", autouse=True)
def ours(server: Server) -> None:
    """The reward model that Outthink serves itself; it may start later than the policy."""
    wait_for(lambda: scorers(server)["prm"] == "ready", 120)


def served(server: Server, name: str) -> AbstractContextManager[None]:
    """The other ones are served for the test that asks for them alone: every vLLM takes its gigabytes."""
    return pooling(server, name) if name in server.remote else nullcontext()


def scorers(server: Server) -> dict[str, str]:
    told: dict[str, str] = server.ready().json()["scorers"]
    return told


def reference(server: Server, name: str, paths: list[dict[str, Any]]) -> list[list[float]]:
    """What transformers makes of the same paths."""
    command = [sys.executable, "-m", "tests.integration.reward_models", "rate", str(server.rewards / name)]
    done = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True, check=True)
    rated: list[list[float]] = json.loads(done.stdout)
    return rated


def path(tree: dict[int, dict[str, Any]], node: dict[str, Any]) -> list[str]:
    """The steps from the root to a node, as a scorer reads them."""
    earlier = path(tree, tree[node["parent"]]) if node["parent"] is not None else []
    return [*earlier, str(node["text"]).strip()]


@pytest.mark.parametrize("name", ["prm", "qwen"])
async def test_step_scores_are_those_of_transformers(server: Server, aclient: openai.AsyncOpenAI, name: str) -> None:
    asking = (
        aclient.chat.completions.create(
            model=MODEL,
            messages=asked(QUESTION),
            max_tokens=64,
            seed=seed,
            extra_body={"strategy": {**BEAMS, "scorer": name}, "include": ["candidates"]},
        )
        for seed in range(4)
    )
    with served(server, name):
        replies = await asyncio.gather(*asking)
    paths, scores = [], []
    for reply in replies:
        tree = {node["id"]: node for node in extras(reply)["candidates"]}
        paths += [path(tree, node) for node in tree.values()]
        scores += [node["scores"] for node in tree.values()]
    assert max(map(len, paths)) > 2
    assert [len(steps) for steps in paths] == list(map(len, scores))
    assert max(map(max, scores)) - min(map(min, scores)) > 0.2, "all scores are alike: nothing could be misaligned"
    expected = reference(server, name, [{"question": QUESTION, "steps": steps} for steps in paths])
    for mine, theirs in zip(scores, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "type_"), [("outcome", "best_of_n"), ("prm", "best_of_n"), ("prm", "self_consistency")]
)
def test_whole_answers_are_scored(server: Server, client: openai.OpenAI, name: str, type_: str) -> None:
    choice = {"vote": "weighted"} if type_ == "self_consistency" else {}
    strategy = {"type": type_, "samples": 4, "scorer": name, "aggregate": "min", **choice}
    with served(server, name):
        reply = client.chat.completions.create(
            model=MODEL,
            messages=asked(QUESTION),
            max_tokens=48,
            seed=1,
            extra_body={"strategy": strategy, "include": ["candidates"]},
        )
    candidates = extras(reply)["candidates"]
    texts = [candidate["text"] for candidate in candidates]
    steps = [[text] if name == "outcome" else [s.strip() for s in text.split("\n\n") if s.strip()] for text in texts]
    expected = reference(server, name, [{"question": QUESTION, "steps": parts} for parts in steps])
    for candidate, scores in zip(candidates, expected, strict=True):
        assert candidate["scores"] == pytest.approx(scores, abs=TOLERANCE)
        assert candidate["score"] == pytest.approx(min(scores), abs=TOLERANCE)


def test_what_a_scorer_reads_is_counted(server: Server, client: openai.OpenAI, before: Counters) -> None:
    read = read_by_scorer(server)
    reply = client.chat.completions.create(
        model=MODEL, messages=asked(QUESTION), max_tokens=48, extra_body={"strategy": {**BEAMS, "scorer": "prm"}}
    )
    policy, scorer = extras(reply)["usage"]["policy"], extras(reply)["usage"]["scorer"]
    assert counted(server, before, policy["completion"], policy["prompt"]) == (policy["completion"], policy["prompt"])
    wait_for(lambda: read_by_scorer(server) == read + scorer["prompt"])
    assert scorer["completion"] == 0
    assert scorer["requests"] == extras(reply)["rounds"] > 1
    assert extras(reply)["usage"]["flops"] > 0


def test_paths_go_on_from_the_prefix_cache(server: Server, client: openai.OpenAI, before: Counters) -> None:
    """Only a path that is continued by its own token ids is found again; a new prompt or text would not be."""
    found, asked_for = prefix_cache(server)
    strategy = {**BEAMS, "beams": 8, "width": 4, "max_steps": 7, "step": {"max_tokens": 48}, "scorer": "prm"}
    client.chat.completions.create(
        model=MODEL,
        messages=asked("Tell the story of a lighthouse, and of those who kept it."),
        max_tokens=7 * 48,
        extra_body={"strategy": strategy, "ignore_eos": True},
    )
    wait_for(lambda: server.counters().idle)
    hits, queries = (now - then for now, then in zip(prefix_cache(server), (found, asked_for), strict=True))
    assert queries > 2000
    assert hits / queries >= 0.8


def prefix_cache(server: Server) -> tuple[int, int]:
    """Tokens that vLLM found in its prefix cache, and tokens that it looked for."""
    found = samples(httpx.get(f"{server.engine}/metrics", trust_env=False).text)
    hits, queries = (sum(found[f"vllm:prefix_cache_{what}_total"].values()) for what in ("hits", "queries"))
    return int(hits), int(queries)


def read_by_scorer(server: Server) -> int:
    found = samples(httpx.get(f"{server.scorer}/metrics", trust_env=False).text)
    return int(sum(found["vllm:prompt_tokens_total"].values()))


def test_a_path_too_long_for_the_scorer_keeps_a_score_for_every_step(client: openai.OpenAI) -> None:
    """The reward model reads 512 tokens, the policy 8,192."""
    strategy = {**BEAMS, "beams": 2, "max_steps": 16, "step": {"max_tokens": 48}, "scorer": "prm"}
    reply = client.chat.completions.create(
        model=MODEL,
        messages=asked("Tell a very long story."),
        max_tokens=768,
        seed=5,
        extra_body={"strategy": strategy, "include": ["candidates"], "ignore_eos": True},
    )
    told = extras(reply)
    assert any("too short" in note for note in told["notes"])
    assert all(len(node["scores"]) == node["depth"] for node in told["candidates"])


def test_a_scorer_that_is_not_there_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(
            model=MODEL,
            messages=asked(QUESTION),
            max_tokens=16,
            extra_body={"strategy": {"type": "best_of_n", "samples": 2, "scorer": "nowhere"}, "ignore_eos": True},
        )
    assert refused.value.status_code == 503
    assert "scorer 'nowhere'" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_configured_scorer_is_listed_and_takes_no_parameters(server: Server, client: openai.OpenAI) -> None:
    listed = httpx.get(f"{server.api}/strategies", headers={"Authorization": f"Bearer {client.api_key}"}).json()
    assert {"judge", "generative", "prm", "qwen", "outcome"} <= set(listed["scorers"])
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=MODEL,
            messages=asked(),
            extra_body={"strategy": {**BEAMS, "scorer": {"type": "prm", "model": "another"}}},
        )
    assert refused.value.param == "strategy.scorer.model"
