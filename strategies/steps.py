"""Searching over steps: growing paths by token ids, and ending a search with an answer.

A path is a `Candidate` whose `steps` were generated one after another, each from the ids of those before it, so that
the engine finds its prefixes in its cache and the distribution is that of one uninterrupted answer. The ids are the
truth, the text is what they detokenise to.

A rule (`stop`, strategies/stopping.py) may end a search. The paths of a round count in the order of their parents, and
of one parent in that of its samples. A path counts as soon as all before it have ended their step, so that what is
decided does not depend on the order of arrival. The first verified path that decides ends the round: those behind it
are aborted, and no part of the result. A round is looked at when it is complete as well; the vote ends a search only
then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

from strategies.errors import BudgetSpent, EngineError, EngineRefused
from strategies.knobs import knob
from strategies.seeds import derive
from strategies.select import by_score, by_vote, score
from strategies.session import Session
from strategies.stopping import Never, Stop, decide_search, may_decide
from strategies.types import OPEN, Aggregate, Call, Candidate, Generation, Round

Select = Literal["best", "weighted_vote"]

UNSUPPORTED = frozenset(
    {
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "structured_outputs",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "echo",
        "continue_final_message",
        "add_generation_prompt",
        "use_beam_search",
        "presence_penalty",
        "frequency_penalty",
        "repetition_detection",
        "return_tokens_as_token_ids",
        "add_special_tokens",
        "truncate_prompt_tokens",
        "truncation_side",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "thinking_token_budget",
        "include_reasoning",
    }
)
"""What belongs to a whole chat completion, or whose history would restart at every step."""

FOR_THE_PROMPT = frozenset({"chat_template", "chat_template_kwargs", "documents", "reasoning_effort"})
"""Fields that are spent when the conversation is rendered."""

RESERVE = 256
"""Tokens kept to finish the best path when the budget ends, or a quarter of a smaller budget."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step ends: at the delimiter, or after so many tokens."""

    delimiter: str = knob("\n\n", "Text that ends a step.", min_length=1, max_length=32)
    max_tokens: int = knob(256, "Most tokens of a step.", ge=1, le=4096)


def reserve(session: Session) -> int:
    return RESERVE if session.budget.tokens is None else min(RESERVE, session.budget.tokens // 4)


@dataclass(slots=True)
class Watch:
    """Looks, while a round of a search is generated, whether a path that has finished decides it. `finished` are the
    finished paths, to begin with those of the rounds before; `merged`: equal siblings are one, the first."""

    session: Session
    stop: Stop
    select: Select
    aggregate: Aggregate | None
    finished: list[Candidate]
    merged: bool = False

    async def take(self, ended: Sequence[Candidate], left: int) -> list[Candidate]:
        """The paths, which ended their step in this order and have `left` more behind them in this round, up to the one
        that decides the search."""
        if isinstance(self.stop, Never) or not await self.score(ended):
            return list(ended)
        for count, path in enumerate(ended, 1):
            if path.complete and not (self.merged and any(equal_siblings(path, other) for other in self.finished)):
                self.finished.append(self.session.judged[path.id])
                if may_decide(self.stop, self.finished[-1]):
                    await self.look(left + len(ended) - count)
            if self.session.stopped is not None:
                return list(ended[:count]) if self.session.decision else list(ended)
        return list(ended)

    async def score(self, ended: Sequence[Candidate]) -> bool:
        """Score those that are complete; False where there is none, or no score: the end of the round will tell why."""
        complete = [path for path in ended if path.complete]
        if not complete or self.session.stopped is not None:
            return False
        try:
            scored = await self.session.score(complete, self.aggregate)
        except (BudgetSpent, EngineError):
            return False
        self.session.judged |= {path.id: path for path in scored}
        return True

    async def look(self, left: int) -> None:
        """End the search where the finished paths decide it, while `left` more may finish."""
        if isinstance(self.stop, Never) or not self.finished:
            return
        self.finished = await self.session.read(self.finished)
        settle(self.session, self.stop, rank(self.finished, self.select), left, weighted=False)


def equal_siblings(one: Candidate, other: Candidate) -> bool:
    return (one.parent, one.last.text) == (other.parent, other.last.text)


def settle(session: Session, stop: Stop, found: Round, left: int, *, weighted: bool) -> None:
    """End the search where its finished paths decide it, and tell those who wait the votes under a rule."""
    if isinstance(stop, Never):
        return
    session.progress.tell(found.votes)
    if session.stopped is None:
        session.decision = decide_search(stop, found, session.judged, left, weighted=weighted)
        session.stopped = "converged" if session.decision else None


def root() -> Candidate:
    """The empty path."""
    return Candidate(-1, ())


async def grow(
    session: Session, parents: Sequence[Candidate], n: int, steps: Sequence[Step | None], watch: Watch | None = None
) -> list[list[Candidate]]:
    """Sample `n` next steps of every parent, all at once; where there is no step, to the end of the answer.

    One request a parent, since each has a seed and a length of its own. Children are numbered in the order of their
    parents, whatever order they arrive in. What failed is missing; what the budget cut ends with `length`.
    """
    calls = []
    for i, (parent, step) in enumerate(zip(parents, steps, strict=True)):
        tree = i if parent.id < 0 else 0  # every tree has a root of its own
        asked = await call(session, parent, step)
        calls.append(replace(asked, n=n, seed=derive(session.seed, "step", parent.id, tree)))
    return await extend(session, parents, calls, steps, reserve(session), watch)


async def grow_greedily(
    session: Session, parents: Sequence[Candidate], step: Step | None, keep: int, watch: Watch | None = None
) -> list[Candidate]:
    """Every parent one most likely step further, or to the end of its answer; as it is where that failed."""
    calls = [replace(await call(session, parent, step), temperature=0.0) for parent in parents]
    families = await extend(session, parents, calls, [step] * len(parents), keep, watch)
    return [family[0] if family else parent for parent, family in zip(parents, families, strict=True)]


async def extend(
    session: Session,
    parents: Sequence[Candidate],
    calls: Sequence[Call],
    steps: Sequence[Step | None],
    keep: int,
    watch: Watch | None = None,
) -> list[list[Candidate]]:
    """The children of every parent, with their texts, leaving `keep` tokens of the budget; as far as it takes to decide
    the search, the rest being aborted."""
    prompt = await session.prompt()
    families: list[list[Candidate]] = [[] for _ in parents]
    left = sum(call.n for call in calls)
    async with aclosing(session.extend_in_order([prompt + p.ids for p in parents], calls, keep)) as arriving:
        async for fresh in arriving:
            children = [await child(session, parents[i], generation, steps[i]) for i, generation in fresh]
            taken = await watch.take(children, left - len(fresh)) if watch else children
            left -= len(taken)
            for (i, _), path in zip(fresh, taken, strict=False):
                families[i].append(path)
            if session.decision:
                session.unused = left
                break
    return await for_families(families, partial(spell_paths, session))


async def child(session: Session, parent: Candidate, generation: Generation, step: Step | None) -> Candidate:
    return session.child(parent, ended(session, generation, step, await room_left(session, parent)))


async def room_left(session: Session, path: Candidate) -> int:
    """Tokens that this path may still generate: what the caller allows one answer, within the context."""
    context = await session.context() - len(await session.prompt()) - len(path.ids)
    allowed = session.chat.fields.get("max_tokens")
    return min(context, context if allowed is None else int(allowed) - path.tokens)


async def call(session: Session, path: Candidate, step: Step | None) -> Call:
    """What is asked of the engine for the next step of a path, or for the rest of its answer."""
    room = await room_left(session, path)
    tokens = max(min(step.max_tokens, room) if step else room, 1)
    stop = (step.delimiter,) if step else ()
    fields = sampling_fields(session.chat.fields, path, tokens)
    logprobs = session.scorer.logprobs if session.scorer else None
    return Call(max_tokens=tokens, stop=(*stop, *callers_stops(session)), logprobs=logprobs, fields=fields)


def callers_stops(session: Session) -> tuple[str, ...]:
    stops = session.chat.fields.get("stop") or ()
    return (stops,) if isinstance(stops, str) else tuple(stops)


def sampling_fields(fields: Mapping[str, Any], path: Candidate, tokens: int) -> dict[str, Any]:
    """The caller's fields that reach every step; `min_tokens` is of a whole path, so what is left of it, in a step."""
    kept = {name: value for name, value in fields.items() if name not in FOR_THE_PROMPT | {"n", "stop", "max_tokens"}}
    if "min_tokens" in kept:
        kept["min_tokens"] = min(max(kept["min_tokens"] - path.tokens, 0), tokens)
    return kept


def ended(session: Session, generation: Generation, step: Step | None, room: int) -> Generation:
    """The generation with the reason that its path, rather than its step, has: OPEN when it can go on.

    A stop string of the caller's ends the answer and is no part of it, also where it is the delimiter.
    """
    stops = callers_stops(session)
    if step is None or generation.stop_reason in stops:
        return without_stop(generation, stops)
    at_delimiter = generation.finish_reason == "stop" and generation.stop_reason == step.delimiter
    full_step = generation.finish_reason == "length" and step.max_tokens <= generation.tokens
    if at_delimiter or full_step:
        return replace(generation, finish_reason=OPEN if generation.tokens < room else "length")
    return generation


def without_stop(generation: Generation, stops: Sequence[str]) -> Generation:
    if generation.stop_reason in stops:
        return replace(generation, text=generation.text.removesuffix(str(generation.stop_reason)))
    return generation


async def for_families(
    families: Sequence[Sequence[Candidate]],
    work: Callable[[Sequence[Candidate]], Awaitable[Sequence[Candidate | None]]],
) -> list[list[Candidate]]:
    """Do something to all members of all families in one batch; each family anew, without those that became None."""
    results = iter(await work([member for family in families for member in family]))
    return [[one for one in islice(results, len(family)) if one is not None] for family in families]


async def for_open(
    paths: Sequence[Candidate], work: Callable[[Sequence[Candidate]], Awaitable[Sequence[Candidate]]]
) -> list[Candidate]:
    """Do something to the open paths, in one batch; the others stay as they are."""
    going = [path for path in paths if path.open]
    results = iter(await work(going) if going else ())
    return [next(results) if path.open else path for path in paths]


async def spell_paths(session: Session, paths: Sequence[Candidate]) -> list[Candidate | None]:
    """The paths with the texts of their ids, asked for at once; one without its text is a failed branch."""
    results = await asyncio.gather(*(spell(session, path) for path in paths), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    fatal = [error for error in errors if not isinstance(error, EngineError)]
    if fatal or (errors and len(errors) == len(results)):
        raise (fatal or errors)[0]
    for error in errors:
        session.report(error, branches=1)
    return [result if isinstance(result, Candidate) else None for result in results]


async def spell(session: Session, path: Candidate) -> Candidate:
    """An open path with the text of its ids: the last token may reach beyond the delimiter that ended the step."""
    if not path.open:
        return path
    try:
        text = await session.in_time(session.engine.detokenize(path.ids))
    except BudgetSpent:
        return path  # it will not be continued: its text is as it was streamed
    before = "".join(step.text for step in path.steps[:-1])
    if not text.startswith(before):
        return path
    return replace(path, steps=(*path.steps[:-1], replace(path.last, text=text[len(before) :])))


async def score_paths(session: Session, paths: Sequence[Candidate], aggregate: Aggregate | None) -> list[Candidate]:
    """The paths with a score for every step, folded as the caller chose; as they are where the budget ended, or where
    the engine failed and there are answers among them. Those that a `Watch` has scored have their scores; when the
    search is decided no others are needed."""
    unscored = [path for path in paths if path.id not in session.judged]
    scored: Sequence[Candidate] = ()
    try:
        if unscored and not session.decision:
            scored = await session.score(unscored, aggregate)
    except BudgetSpent:
        pass
    except EngineError as error:
        if isinstance(error, EngineRefused) or not any(path.complete for path in paths):
            raise
        session.report(error)
    session.judged |= {path.id: path for path in scored if path.complete}
    fresh = {path.id: path for path in scored}
    return [session.judged.get(path.id) or fresh.get(path.id, path) for path in paths]


def with_score_ahead(path: Candidate, ahead: Candidate) -> Candidate:
    """The path with the score of its continuation, and the scores of its own steps."""
    steps = len(path.steps)
    return replace(path, scores=ahead.scores[:steps], score=ahead.score, reasons=ahead.reasons[:steps])


@contextmanager
def until_spent(session: Session, finished: Callable[[], Sequence[Candidate]]) -> Iterator[None]:
    """End a search when its budget does, or when the engine fails altogether and there is an answer already."""
    try:
        yield
    except BudgetSpent:
        pass
    except EngineError as error:
        if not any(path.complete for path in finished()):
            raise
        session.report(error)


async def so_far(
    session: Session,
    finished: Sequence[Candidate],
    frontier: Sequence[Candidate],
    select: Select,
    stop: Stop,
    left: int,
) -> Round:
    """A round on the way: the best finished answer, or, while there is none, the most promising path.

    Where the finished paths decide the search, of which at most `left` more may come, it is ended.
    """
    if finished:
        found = await read_and_rank(session, finished, select)
        settle(session, stop, found, left, weighted=select == "weighted_vote")
        return found
    return Round(tuple(frontier), tuple(sorted(frontier, key=lambda path: (-score(path), path.id))))


async def conclude(
    session: Session,
    finished: Sequence[Candidate],
    frontier: Sequence[Candidate],
    select: Select,
    aggregate: Aggregate | None,
) -> Round:
    """The last round: when no path is complete, the best unfinished one is completed greedily from the reserve."""
    if any(path.complete for path in finished):
        decided = await read_and_rank(session, finished, select)
        converged = session.stopped == "converged"  # unless the deadline fell between the decision and its reading
        return replace(decided, converged=converged, decision=session.decision if converged else None)
    unfinished = [*finished, *frontier]
    if not unfinished:
        raise BudgetSpent("the budget ended before the first step")
    growing = [path for path in unfinished if await room_left(session, path) > 0] or unfinished
    best = max(growing, key=lambda path: (score(path), -path.id))
    found = await complete_greedily(session, best, aggregate)
    last = await read_and_rank(session, [*found, *map(cut, unfinished)], select)
    return replace(last, ranked=tuple(sorted(last.ranked, key=lambda path: path.id not in {f.id for f in found})))


def cut(path: Candidate) -> Candidate:
    """The path as an answer: one that could go on was cut."""
    if not path.open:
        return path
    return replace(path, steps=(*path.steps[:-1], replace(path.last, finish_reason="length")))


async def complete_greedily(session: Session, path: Candidate, aggregate: Aggregate | None) -> list[Candidate]:
    """The path, greedily continued to its end within what is left of the budget and of the answer's length."""
    if await room_left(session, path) < 1:
        return []
    try:
        [found] = await grow_greedily(session, [path], None, keep=0)
    except (BudgetSpent, EngineError):
        return []
    try:
        return await session.score([found], aggregate)
    except BudgetSpent:
        return [found]
    except EngineError as error:
        session.report(error)
        return [found]


async def read_and_rank(session: Session, paths: Sequence[Candidate], select: Select) -> Round:
    read = await session.read(paths)
    session.remember(read)
    return rank(read, select)


def rank(paths: Sequence[Candidate], select: Select) -> Round:
    return by_score(paths) if select == "best" else by_vote(paths, weight=score)
