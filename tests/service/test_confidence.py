"""Votes by confidence, over HTTP: what a request may say of them, and what its reply tells."""

from __future__ import annotations

from typing import Any

import pytest

from service.engines.scripted import Reply, ScriptedEngine
from tests.conftest import chat, outthink

PATH = "/v1/chat/completions"


def voting(vote: str, **more: Any) -> dict[str, Any]:
    return {"type": "self_consistency", "samples": 4, "vote": vote, **more}


def says(prompt: str, branch: int) -> Reply | str:
    """Two say 1, two say 2, of whom the second pair is surer; asked, the model is sure of 1."""
    if "Reply with 1" in prompt:
        return Reply("1", labels={"1": -0.1, "0": -3.0} if "boxed{1}" in prompt else {"1": -3.0, "0": -0.1})
    return Reply("\\boxed{1}", logprob=-1.0) if branch < 2 else Reply("\\boxed{2}", logprob=-5.0)


@pytest.mark.parametrize(
    ("strategy", "winner"),
    [
        (voting("confidence", softmax_temperature=0.2), "1"),
        (voting("confidence", confidence="sequence", softmax_temperature=0.2), "1"),
        (voting("deepconf", keep=50), "2"),
        (voting("deepconf", scorer={"type": "deepconf", "measure": "tail", "group": 4, "top_k": 5}), "2"),
        ({"type": "best_of_n", "samples": 4, "scorer": "p_true"}, "1"),
        ({"type": "best_of_n", "samples": 4, "scorer": "deepconf"}, "2"),
    ],
)
async def test_a_confidence_chooses_the_answer(strategy: dict[str, Any], winner: str) -> None:
    async with outthink(ScriptedEngine(says)) as client:
        reply = (await client.post(PATH, json=chat(strategy=strategy))).json()
    assert reply["choices"][0]["message"]["content"] == f"\\boxed{{{winner}}}"


async def test_a_warm_up_that_agrees_saves_the_rest() -> None:
    engine = ScriptedEngine(lambda prompt, branch: "\\boxed{42}")
    strategy = voting("deepconf", warmup=2) | {"samples": 8}
    async with outthink(engine) as client:
        reply = (await client.post(PATH, json=chat(strategy=strategy))).json()
    said = reply["outthink"]
    assert said["stopped_by"] == "converged"
    assert said["decision"] == {"rule": "consensus", "samples": 2, "confidence": 1.0, "saved": 6}
    assert said["strategy"]["scorer"] == "deepconf"
    assert said["usage"]["policy"]["completion"] == engine.generated == 2


async def test_samples_that_are_aborted_are_said_to_be_and_paid_for() -> None:
    """In the warm-up two are sure and disagree. Each sample behind it is the first of its own request, and unsure: it
    is aborted with its first event, of 16 tokens."""
    long = "word " * 100 + "\\boxed{1}"

    def script(prompt: str, branch: int) -> Reply:
        return Reply(f"\\boxed{{{branch}}}", logprob=-5.0) if branch else Reply(long, logprob=-1.0)

    engine = ScriptedEngine(script)
    strategy = voting("deepconf", warmup=3, keep=10, scorer={"type": "deepconf", "group": 4}) | {"samples": 6}
    async with outthink(engine) as client:
        reply = (await client.post(PATH, json=chat(strategy=strategy, include=["candidates"]))).json()
        metrics = (await client.get("/metrics")).text
    said = reply["outthink"]
    assert said["usage"]["policy"]["completion"] == engine.generated == 101 + 1 + 1 + 3 * 16
    assert [(c["tokens"], c["finish_reason"]) for c in said["candidates"][3:]] == [(16, "length")] * 3
    assert said["notes"] == ["3 samples were aborted: a group's confidence fell below 14.5 nats"]
    assert 'outthink_tokens_total{fate="cancelled",role="policy",strategy="self_consistency"} 48.0' in metrics
    assert engine.open_streams == 0


@pytest.mark.parametrize(
    ("strategy", "param", "message"),
    [
        (voting("surest"), "strategy.vote", "majority"),
        (voting("confidence", confidence="verbal"), "strategy.confidence", "p_true"),
        (voting("confidence", softmax_temperature=0), "strategy.softmax_temperature", "greater than 0"),
        (voting("confidence", softmax_temperature="1"), "strategy.softmax_temperature", "number"),
        (voting("deepconf", keep=0), "strategy.keep", "greater than 0"),
        (voting("deepconf", keep=101), "strategy.keep", "less than or equal to 100"),
        (voting("deepconf", warmup=1), "strategy.warmup", "greater than or equal to 2"),
        (voting("deepconf", warmup=4), "strategy.warmup", "less than 4"),
        (voting("deepconf", stop={"rule": "adaptive"}), "strategy.stop", "warmup"),
        (voting("majority", keep=50), "strategy.keep", '"vote": "deepconf"'),
        (voting("deepconf", scorer={"type": "deepconf", "measure": "median"}), "strategy.scorer.measure", "tail"),
        (voting("deepconf", scorer={"type": "deepconf", "group": 0}), "strategy.scorer.group", "greater than"),
        (voting("deepconf", scorer={"type": "deepconf", "top_k": 21}), "strategy.scorer.top_k", "less than"),
        (voting("confidence", scorer={"type": "p_true", "model": "nobody"}), "strategy.scorer.model", "nobody"),
    ],
)
async def test_what_is_wrong_is_named(strategy: dict[str, Any], param: str, message: str) -> None:
    async with outthink(ScriptedEngine(says)) as client:
        refused = await client.post(PATH, json=chat(strategy=strategy))
    error = refused.json()["error"]
    assert refused.status_code in (400, 404)
    assert error["param"] == param
    assert message in error["message"]


async def test_the_parameters_are_listed() -> None:
    async with outthink(ScriptedEngine(says)) as client:
        listed = (await client.get("/v1/strategies")).json()
    [sc] = [one for one in listed["data"] if one["type"] == "self_consistency"]
    assert {"confidence", "softmax_temperature", "keep", "warmup"} <= sc["parameters"]["properties"].keys()
    scorers = {one["type"]: one["parameters"]["properties"].keys() for one in listed["scorer_types"]}
    assert {"measure", "group", "top_k"} <= scorers["deepconf"]
    assert "model" in scorers["p_true"]
