"""Scorers that compute, and rules that stop, on a real vLLM; its own counters say what was saved."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.integration.asking import MODEL, asked, extras, strategy, text
from tests.integration.server import Server, wait_for

RIGHT, WRONG = "3 + 4 = 7\n\n\\boxed{7}", "3 + 4 = 8\n\n\\boxed{8}"
DOUBLES, HALVES = ("```python\ndef f(x):\n    return {}\n```\n".format(body) for body in ("2 * x", "x // 2"))  # noqa: UP032
FILTERED = {"type": "all", "of": ["equations", "logprob"]}
TESTS = {"type": "tests", "tests": ["assert f(4) == 8", "assert f(5) == 10"]}


def ask(client: openai.OpenAI, extra: dict[str, Any], *, choices: tuple[str, ...] = (), **fields: Any) -> Any:
    """One request; the model answers with one of the choices, as its probabilities have it."""
    limited = {"structured_outputs": {"choice": list(choices)}} if choices else {}
    body: dict[str, Any] = {"extra_body": {"include": ["candidates"]} | extra | limited, "max_tokens": 64, "seed": 5}
    return client.chat.completions.create(model=MODEL, messages=asked(), **body | fields)


@pytest.mark.parametrize(
    ("scorer", "right", "wrong"),
    [
        ("equations", RIGHT, WRONG),
        (TESTS, DOUBLES, HALVES),
        ({"type": "all", "of": ["equations", "logprob"]}, RIGHT, WRONG),
    ],
    ids=["equations", "tests", "all"],
)
def test_what_is_computed_chooses(client: openai.OpenAI, scorer: Any, right: str, wrong: str) -> None:
    """Warm enough that both come up among sixteen."""
    extra = strategy("best_of_n", scorer=scorer, samples=16)
    reply = ask(client, extra, choices=(right, wrong), temperature=2.0)
    scores = {candidate["text"]: candidate["score"] for candidate in extras(reply)["candidates"]}
    assert scores.keys() == {right, wrong}
    assert scores[right] > scores[wrong] == 0
    assert text(reply) == right


def test_a_vote_that_is_decided_stops_and_saves_tokens(server: Server, client: openai.OpenAI) -> None:
    wait_for(lambda: server.counters().idle)
    before = server.counters()
    reply = ask(client, strategy(samples=64, stop={"rule": "adaptive"}), choices=("\\boxed{1}",))
    told = extras(reply)
    wait_for(lambda: server.counters().idle)
    assert told["stopped_by"] == "converged"
    assert told["decision"] == {"rule": "adaptive", "samples": 4, "confidence": 0.96875, "saved": 60}
    assert server.counters().generation - before.generation == told["usage"]["policy"]["completion"]


def test_one_verified_answer_is_enough(server: Server, client: openai.OpenAI) -> None:
    wait_for(lambda: server.counters().idle)
    before = server.counters()
    rule = {"stop": {"rule": "verified"}, "waves": {"start": 2}}
    reply = ask(client, strategy("best_of_n", scorer="equations", samples=32, **rule), choices=(RIGHT,))
    told = extras(reply)
    wait_for(lambda: server.counters().idle)
    assert (told["decision"]["rule"], told["decision"]["samples"]) == ("verified", 1)
    assert told["decision"]["saved"] == 30
    assert server.counters().generation - before.generation == told["usage"]["policy"]["completion"]


def test_a_sample_has_its_seed_whatever_the_sizes_of_the_waves(client: openai.OpenAI) -> None:
    """Numbers differ a little between batches of different sizes, so that a few tokens may, too."""
    waves = {"stop": {"rule": "window", "size": 8}, "waves": {"start": 2, "growth": 1.0}}
    found = []
    for extra in ({}, waves):
        reply = ask(client, strategy(samples=8, **extra), max_tokens=12)
        found.append([candidate["text"] for candidate in sorted(extras(reply)["candidates"], key=lambda c: c["id"])])
    assert len(set(found[0])) > 4, "the samples differ from each other"
    assert sum(one == other for one, other in zip(*found, strict=False)) >= min(map(len, found)) - 2


def test_unsure_samples_are_aborted_while_they_are_decoded(server: Server, client: openai.OpenAI) -> None:
    """What vLLM made of an aborted one before it noticed is not known to anybody else: up to a few events."""
    wait_for(lambda: server.counters().idle)
    before = server.counters()
    extra = strategy(vote="deepconf", samples=12, warmup=4, keep=50.0, scorer={"type": "deepconf", "group": 8})
    told = extras(ask(client, extra, temperature=1.5, max_tokens=128))
    wait_for(lambda: server.counters().idle)
    unreported = server.counters().generation - before.generation - told["usage"]["policy"]["completion"]
    assert 0 <= unreported <= 8 * 48
    assert told["stopped_by"] in ("complete", "converged")
    assert len(told["candidates"]) > 4 or told["stopped_by"] == "converged"


@pytest.mark.parametrize("type_", ["beam_search", "particle_filter", "mcts"])
def test_a_search_ends_with_the_first_path_that_is_verified(client: openai.OpenAI, type_: str) -> None:
    """Of paths that end in the first step, whose equation holds."""
    sizes = {"beam_search": {"beams": 4, "width": 2}, "particle_filter": {"particles": 4}, "mcts": {"iterations": 4}}
    body = {"type": type_, **sizes[type_], "scorer": "equations", "stop": {"rule": "verified"}}
    messages: Any = [{"role": "user", "content": "Say: 3 + 4 = 7"}]
    limited = {"strategy": body, "include": ["candidates"]}
    reply = client.chat.completions.create(model=MODEL, messages=messages, extra_body=limited, max_tokens=96, seed=5)
    told = extras(reply)
    verified = [c for c in told["candidates"] if c["score"] == 1.0 and c["finish_reason"] == "stop"]
    assert (told["stopped_by"] == "converged") == bool(verified)
    if verified:
        assert told["decision"]["rule"] in ("verified", "majority")
