"""Every strategy answers the same questions through OpenAI's own client, whole and streamed, with the same seed.

What is looked at: errors; reported tokens against vLLM's counters; the trees of searches; how much of the prefixes vLLM
found in its cache; and how far the same seed gives the same answer on an engine whose numerics depend on the batch.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import openai
from rich.progress import track

from benchmarks.overhead import question
from benchmarks.servers import free_port, idle, service, vllm_metric

ANSWER_TOKENS = 80
COUNTERS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
)
INSTRUCTION = "\nThink step by step, one line a step, and put the final answer in \\boxed{}."
STEP = {"delimiter": "\n", "max_tokens": 20}
SEARCH: dict[str, Any] = {"max_steps": 4, "step": STEP}
STRATEGIES: dict[str, dict[str, Any]] = {
    "chain_of_thought": {"type": "chain_of_thought"},
    "self_consistency": {"type": "self_consistency", "samples": 4},
    "best_of_n, judge": {"type": "best_of_n", "samples": 4},
    "best_of_n, generative": {"type": "best_of_n", "samples": 4, "scorer": "generative", "select": "weighted_vote"},
    "beam_search": {"type": "beam_search", "beams": 4, "width": 2, **SEARCH},
    "beam_search, 2 trees": {"type": "beam_search", "beams": 4, "width": 2, "trees": 2, **SEARCH},
    "particle_filter": {"type": "particle_filter", "particles": 4, **SEARCH},
    "mcts": {"type": "mcts", "iterations": 6, "width": 2, "wave": 2, **SEARCH},
    "mcts, rollouts": {"type": "mcts", "iterations": 2, "width": 2, "wave": 2, "value": "rollout", **SEARCH},
}


@dataclass(slots=True)
class Seen:
    """What was seen of one strategy over all questions. Tokens are of policy and scorer together."""

    name: str
    requests: int = 0
    errors: int = 0
    tokens: int = 0
    miscounted: int = 0  # requests whose tokens were not vLLM's to the token, generated or read
    rounds: int = 0
    depth: int = 0
    unscored: int = 0  # steps of trees without a score
    hits: int = 0
    prefix: int = 0
    repeated: int = 0  # questions with the same answer whole and streamed

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "requests": self.requests,
            "errors": self.errors,
            "tokens": self.tokens,
            "miscounted": self.miscounted,
            "rounds": self.rounds / max(self.requests, 1),
            "deepest step": self.depth,
            "steps without a score": self.unscored,
            "prefix found": self.hits / max(self.prefix, 1),
            "same seed, same text": f"{self.repeated}/{self.requests // 2}",
        }


def run(questions: int, file: Path | None) -> list[dict[str, Any]]:
    """Ask the first questions of a JSONL file with `question` in every row, or made-up ones; Ctrl-C ends early."""
    port = free_port()
    asked = read_questions(file)[:questions] if file else [question(Random(seed)) for seed in range(questions)]
    tallies = {name: Seen(name) for name in STRATEGIES}
    with service(engine_port=port) as server, suppress(KeyboardInterrupt):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        model = client.models.list().data[0].id
        for text in track(asked, "questions"):
            for name, strategy in STRATEGIES.items():
                answer(client, f"http://127.0.0.1:{port}", tallies[name], model, strategy, text)
    return [tally.row() for tally in tallies.values()]


def read_questions(file: Path) -> list[str]:
    return [str(json.loads(line)["question"]) for line in file.read_text().splitlines()]


def answer(client: openai.OpenAI, vllm: str, tally: Seen, model: str, strategy: dict[str, Any], text: str) -> None:
    """Ask once whole and once streamed."""
    texts = []
    for stream in (False, True):
        before = counters(vllm)
        tally.requests += 1
        try:
            said, told = ask(client, model, strategy, text, stream)
        except openai.OpenAIError as error:
            tally.errors += 1
            print(f"{tally.name}: {error}")
            continue
        texts.append(said)
        look(tally, told, before, counters(vllm))
    tally.repeated += len(texts) == 2 and texts[0] == texts[1]


def ask(
    client: openai.OpenAI, model: str, strategy: dict[str, Any], text: str, stream: bool
) -> tuple[str, dict[str, Any]]:
    """The answer and the `outthink` key."""
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text + INSTRUCTION}],
        "max_tokens": ANSWER_TOKENS,
        "seed": 7,
        "extra_body": {"strategy": strategy, "include": ["candidates"]},
    }
    if not stream:
        reply = client.chat.completions.create(**fields)
        return reply.choices[0].message.content or "", (reply.model_extra or {})["outthink"]
    said, told = "", dict[str, Any]()
    for chunk in client.chat.completions.create(**fields, stream=True):
        said += chunk.choices[0].delta.content or ""
        told = (chunk.model_extra or {}).get("outthink", told)
    return said, told


def look(tally: Seen, told: dict[str, Any], before: dict[str, int], after: dict[str, int]) -> None:
    spent = [told["usage"][role] for role in ("policy", "scorer")]
    gained = {name: after[name] - before[name] for name in after}
    tokens = sum(part["completion"] for part in spent)
    counted = gained["generation_tokens_total"], gained["prompt_tokens_total"]
    tally.miscounted += counted != (tokens, sum(part["prompt"] for part in spent))
    tally.tokens += tokens
    tally.rounds += told["rounds"]
    tally.hits += gained["prefix_cache_hits_total"]
    tally.prefix += gained["prefix_cache_queries_total"]
    tree = [node for node in told["candidates"] if "depth" in node]
    tally.depth = max([tally.depth, *(node["depth"] for node in tree)])
    tally.unscored += sum(len(node["scores"]) < node["depth"] for node in tree)


def counters(vllm: str) -> dict[str, int]:
    """vLLM's own, when it is idle; it writes them just after it answers."""
    idle(vllm)
    return {name: vllm_metric(vllm, name) for name in COUNTERS}
