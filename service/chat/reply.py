"""From an outcome to OpenAI's chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from service.chat.order import Order
from strategies.logprobs import Logprobs
from strategies.run import Outcome
from strategies.session import Session
from strategies.types import Candidate, Generation

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def completion(
    head: Mapping[str, Any], order: Order, session: Session, outcome: Outcome, flops: float | None, undecided: int
) -> dict[str, Any]:
    """The whole reply. `head` has id, created, model and system_fingerprint."""
    chosen = outcome.round.ranked[: order.n]
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice(i, candidate, order) for i, candidate in enumerate(chosen)],
        "usage": usage(session, chosen),
        "outthink": outthink_object(order, session, outcome, flops, undecided),
    }


def choice(index: int, candidate: Candidate, order: Order) -> dict[str, Any]:
    last = candidate.last
    return {
        "index": index,
        "message": message(candidate),
        "logprobs": logprobs(last, order),
        "finish_reason": finish_reason(last),
        "stop_reason": last.stop_reason,
    }


def message(candidate: Candidate) -> dict[str, Any]:
    """The assistant's message; reasoning under both names that clients read."""
    body = {"role": "assistant", "content": candidate.text, "refusal": None, **candidate.last.message}
    if len(candidate.steps) > 1:
        body["content"] = candidate.text  # of the whole path, where the engine's message is of its last step
    if reasoning := body.get("reasoning"):
        body["reasoning_content"] = reasoning
    return body


def finish_reason(generation: Generation) -> str:
    """The truth in OpenAI's words: whatever ended a text early is `length`."""
    return generation.finish_reason if generation.finish_reason in FINISH_REASONS else "length"


def logprobs(generation: Generation, order: Order) -> dict[str, Any] | None:
    return {"content": generation.logprobs, "refusal": None} if order.logprobs else None


def dumps(body: Mapping[str, Any]) -> bytes:
    """JSON, of log-probabilities one after the other: all of them as objects would take gigabytes."""
    return orjson.dumps(body, default=as_fragment)


def as_fragment(value: object) -> orjson.Fragment:
    if not isinstance(value, Logprobs):
        raise TypeError(f"{type(value).__name__} has no JSON")
    return orjson.Fragment(b"[%b]" % b",".join(map(orjson.dumps, value)))


def usage(session: Session, chosen: Sequence[Candidate]) -> dict[str, Any]:
    """OpenAI's usage: the caller's prompt once, and every token that the policy generated."""
    completion_tokens = session.usage["policy"].completion
    returned = sum(candidate.tokens for candidate in chosen)
    return {
        "prompt_tokens": session.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": session.prompt_tokens + completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": max(completion_tokens - returned, 0)},
    }


def outthink_object(
    order: Order, session: Session, outcome: Outcome, flops: float | None, undecided: int
) -> dict[str, Any]:
    """The `outthink` key; `undecided` answers could not be compared in time."""
    body: dict[str, Any] = {
        "strategy": order.resolved,
        "stopped_by": outcome.stopped_by,
        "usage": usage_by_role(session) | {"flops": flops},
        "votes": [asdict(vote) for vote in outcome.round.votes],
        "rounds": session.progress.rounds,
        "seconds": round(session.seconds, 3),
    }
    if session.failures:
        body["failed"] = {"branches": session.failed, "reasons": list(dict.fromkeys(session.failures))}
    if decision := decision_object(session, outcome, undecided):
        body["decision"] = decision
    if session.notes:
        body["notes"] = session.notes
    if "candidates" in order.include:
        body["candidates"] = tree_objects(session) or [
            candidate_object(candidate) for candidate in outcome.round.candidates
        ]
    return body


def decision_object(session: Session, outcome: Outcome, undecided: int) -> dict[str, Any]:
    """What stopped sampling early and how many samples that saved; how many answers could not be compared."""
    decision = outcome.round.decision
    stopped = asdict(decision) | {"saved": session.saved} if decision else {}
    return stopped | ({"undecided": undecided} if undecided else {})


def tree_objects(session: Session) -> list[dict[str, Any]]:
    """Every path of a search over steps, in the order it was made: the text and the tokens of its last step alone."""
    return [
        candidate_object(path)
        | {"text": path.last.text, "tokens": path.last.tokens, "depth": len(path.steps)}
        | {"finish_reason": path.last.finish_reason}
        | ({"visits": path.visits, "value": path.value} if path.visits is not None else {})
        for _, path in sorted(session.tree.items())
    ]


def usage_by_role(session: Session) -> dict[str, Any]:
    policy, scorer = asdict(session.usage["policy"]), asdict(session.usage["scorer"])
    return {"policy": policy, "scorer": scorer}


def candidate_object(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "parent": candidate.parent,
        "text": candidate.text,
        "answer": candidate.answer,
        "score": candidate.score,
        "scores": candidate.scores,
        **({"reasons": candidate.reasons} if candidate.reasons else {}),
        "tokens": candidate.tokens,
        "finish_reason": finish_reason(candidate.last),
    }


def progress(session: Session) -> dict[str, Any]:
    """What is going on, for people who wait: what there is of it."""
    state = asdict(session.progress) | {"seconds": round(session.seconds, 1)}
    return {name: value for name, value in state.items() if value is not None}
