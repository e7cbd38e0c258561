"""Reading a judgement off one token: the probabilities of a few label tokens, renormalised among themselves.

A label ("A", "5") must be a single token. One generated token a prompt is all it costs, and nothing has to be parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from strategies.errors import ScorerError
from strategies.knobs import knob
from strategies.select import softmax
from strategies.types import Call, Chat, Engine, Generation, Ids, NamedScorer, ScorerContext

Prompt = Callable[[float], Chat | str]
"""A prompt whose variable parts are shortened to a share in (0, 1] of their length: a conversation, or bare text."""

ROOM = 1  # the verdict token


@dataclass(frozen=True, slots=True)
class Served:
    """A language model that can be asked: where it is served and by what name; None: the engine's own model."""

    engine: Engine
    model: str | None = None

    async def ids(self, asked: Chat | str) -> Ids:
        if isinstance(asked, Chat):
            return await self.engine.render(asked, self.model)
        return await self.engine.tokenize(asked, self.model, special=True)


@dataclass(frozen=True, slots=True)
class ModelScorer(NamedScorer):
    """What scorers that ask a served language model have in common: its name."""

    model: str | None = knob(None, "Another served model than the one that answers.")

    @property
    def models(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)

    def renamed(self, models: Mapping[str, str]) -> Self:
        return self if self.model is None else replace(self, model=models[self.model])


def shorten(text: str, share: float) -> str:
    """The last `share` of a text, since that is where an answer stands."""
    return text if share >= 1 else "[…] " + text[len(text) - int(len(text) * share) :]


async def read_labels(
    session: ScorerContext, prompts: Sequence[Prompt], labels: Sequence[str], judge: Served
) -> list[list[float]]:
    """Return, for every prompt, the probabilities of the labels as its next token; all in one request."""
    label_ids = await single_tokens(labels, judge)
    prefixes = await asyncio.gather(*(fit(session, prompt, judge) for prompt in prompts))
    call = Call(max_tokens=ROOM, temperature=0.0, label_ids=label_ids, model=judge.model)
    return [softmax(at_first_token(verdict, label_ids)) for verdict in await session.ask(judge.engine, prefixes, call)]


async def single_tokens(labels: Sequence[str], judge: Served) -> Ids:
    """The ids of the labels; raise ScorerError where one is not a token of its own."""
    ids = await asyncio.gather(*(judge.engine.tokenize(label, judge.model) for label in labels))
    for label, tokens in zip(labels, ids, strict=True):
        if len(tokens) != 1:
            raise ScorerError(f"the judge's label {label!r} is {len(tokens)} tokens in this model; it must be one")
    return tuple(tokens[0] for tokens in ids)


async def fit(session: ScorerContext, prompt: Prompt, judge: Served) -> Ids:
    """The ids of the prompt, shortened until it fits the judge's context."""
    room = await judge.engine.context(judge.model) - ROOM
    remark = "the judge's context is too short for some answers: it saw their ends only"
    problem = "the question does not fit the judge's context"
    return await shorten_to_fit(session, lambda share: judge.ids(prompt(share)), room, remark, problem)


async def shorten_to_fit(
    session: ScorerContext, at: Callable[[float], Awaitable[Ids]], room: int, remark: str, problem: str
) -> Ids:
    """The ids of a prompt at the first share of its length that fits, with a remark for the caller when it is shorter.

    Raise ScorerError with the problem when next to nothing of it fits.
    """
    share = 1.0
    while len(ids := await at(share)) > room:
        share *= 0.9 * room / len(ids)
        session.note(remark)
        if share < 0.01:
            raise ScorerError(problem)
    return ids


def as_chat(text: str) -> Chat:
    return Chat(({"role": "user", "content": text},))


def at_first_token(verdict: Generation, label_ids: Ids) -> list[float]:
    """Log-probabilities of the labels; one that the engine did not list is as unlikely as the least likely listed."""
    if not verdict.logprobs:
        raise ScorerError("the engine returned no log-probabilities for the judge's verdict")
    top = {entry["token"]: float(entry["logprob"]) for entry in verdict.logprobs[0]["top_logprobs"]}
    floor = min(top.values(), default=0.0)
    return [top.get(f"token_id:{label}", floor) for label in label_ids]
