"""What one run may do: sample, extend, score and read answers.

A session hands out calls to the engine, counts tokens as they stream in, and when the budget ends closes the streams,
which aborts the branches, and returns what is there, cut. A call that could not even begin raises BudgetSpent, on which
the driver (run.py) ends with the latest round.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from strategies.accounting import Ledger
from strategies.branch import Branch, Confidence
from strategies.errors import BudgetSpent, EngineError, ScorerError
from strategies.logprobs import Logprobs
from strategies.select import fold
from strategies.types import (
    Aggregate,
    Batch,
    Call,
    Candidate,
    Chat,
    Checker,
    Decision,
    Engine,
    Event,
    Generation,
    Ids,
    Plan,
    Reader,
    RewardModel,
    Role,
    Rows,
    Scorer,
    Selection,
    Usage,
)

T = TypeVar("T")

Doubt = Callable[[Sequence[float]], bool]
"""Whether to give up a sample in the making, by the confidences of its tokens so far (`Generation.confidences`)."""

UNREAD = "the budget of seconds ended before all answers were read and compared"
LONGEST_REASON = 200  # characters
GRACE_SECONDS = 0.3
"""Behind the deadline, to read and compare what is there; `budget.seconds` may be exceeded by half a second."""


@dataclass(slots=True, eq=False)
class Session(Ledger):
    """One run's engine, reader and scorer, with the account of what they spent."""

    chat: Chat
    engine: Engine
    reader: Reader
    scorer: Scorer | None = None
    seed: int | None = None
    checker: Checker | None = None
    aggregate: Aggregate = "last"  # how scores fold where the strategy does not say
    drawn: int = 0
    reasons: dict[int, tuple[str | None, ...]] = field(default_factory=dict)  # of candidates that are being scored
    rendered: Ids | None = None
    context_length: int | None = None
    tree: dict[int, Candidate] = field(default_factory=dict)  # every path of a search over steps, by its number
    judged: dict[int, Candidate] = field(default_factory=dict)  # its complete paths whose score is their own
    decision: Decision | None = None  # of a rule that ended the search

    async def sample(self, call: Call, chat: Chat | None = None, reserve: int = 0) -> list[Candidate]:
        """Sample `call.n` whole answers, leaving `reserve` tokens of the budget; those that failed are left out."""
        drawn: list[Candidate] = []
        async for _ in self.stream(call, chat or self.chat, drawn, reserve):
            pass
        return drawn

    async def sample_in_order(
        self, call: Call, reserve: int = 0, doubts: Sequence[Doubt] = ()
    ) -> AsyncGenerator[list[Candidate]]:
        """Sample like `sample`, and yield those that have finished as soon as all that were asked for before them have;
        in the end also those that the budget cut. Closing it aborts the rest, whose tokens are counted.

        With a doubt for each sample, each is a request of its own, since an engine aborts whole requests only, and is
        aborted, and cut, as soon as its doubt says so. The engine's streams are read meanwhile, whatever is done with
        what was yielded, so that the budget holds.
        """
        branches = self._branches(call)
        bounded = self._affordable(call, reserve)
        if doubts:
            streams = self._apart(bounded, branches, doubts, reserve)
        else:
            streams = [self._stream(self.engine.sample(self.chat, bounded), branches, "policy", reserve)]
        waiting, results = deque(branches), list[BaseException | None]()
        async with aclosing(in_order(streams, waiting, results)) as arriving:
            async for finished in arriving:
                yield self._candidates(finished)
        raise_hopeless(results)
        self._note_cut(branches, bounded is not call)
        if last := self._candidates(waiting):
            yield last

    def _apart(
        self, call: Call, branches: Sequence[Branch], doubts: Sequence[Doubt], reserve: int
    ) -> list[AsyncGenerator[Batch]]:
        """A request for each sample, with the seed that it has among all."""
        calls = [call.part(i, 1) for i in range(call.n)]
        return [self._stream_doubted(*one, reserve) for one in zip(calls, branches, doubts, strict=True)]

    async def _stream_doubted(self, call: Call, branch: Branch, doubt: Doubt, reserve: int) -> AsyncGenerator[Batch]:
        """Stream one sample until it is doubted, which makes it a cut one also where it had just ended, so that the
        timing decides nothing."""
        doubted = False
        try:
            stream = self._stream(self.engine.sample(self.chat, call), [branch], "policy", reserve)
            async with aclosing(stream) as batches:
                async for batch in batches:
                    if doubted := doubt(branch.confidences):
                        branch.finish_reason = None
                        break
                    yield batch
            if doubted:
                branch.finish_reason = "abort"
        except EngineError as error:
            self.lose([branch], error)  # now, so that those behind it are not kept waiting
            raise

    async def stream(self, call: Call, chat: Chat, out: list[Candidate], reserve: int = 0) -> AsyncGenerator[Batch]:
        """Sample like `sample`, passing every batch on as it comes; `out` is filled at the end."""
        branches = self._branches(call)
        bounded = self._affordable(call, reserve)
        async with aclosing(self._stream(self.engine.sample(chat, bounded), branches, "policy", reserve)) as batches:
            async for batch in batches:
                yield batch
        self._note_cut(branches, bounded is not call)
        out.extend(self._candidates(branches))

    def _branches(self, call: Call) -> list[Branch]:
        return [Branch(self._wanted_logprobs(), self._confidence(call)) for _ in range(call.n)]

    def _wanted_logprobs(self) -> Logprobs | None:
        """Where the log-probabilities go that the caller wants returned, though a scorer may have asked for more."""
        fields = self.chat.fields
        return Logprobs(fields.get("top_logprobs") or 0) if fields.get("logprobs") else None

    def _confidence(self, call: Call) -> Confidence | None:
        return self.scorer.confidence if self.scorer is not None and call.logprobs is not None else None

    def _affordable(self, call: Call, reserve: int) -> Call:
        """The call with no more tokens for a branch than the budget has left, so that no branch outruns a service that
        is too busy to stop it. Without a `max_tokens` it stays as it is: vLLM refuses more than fits its context."""
        asked, left = call.max_tokens or self.chat.fields.get("max_tokens"), self.left_to_begin(reserve)
        if asked is None or left is None or asked <= left:
            return call
        return replace(call, max_tokens=max(left, self.chat.fields.get("min_tokens") or 1))

    async def prompt(self) -> Ids:
        """The conversation's ids, rendered once."""
        if self.rendered is None:
            self.rendered = await self.in_time(self.engine.render(self.chat))
        return self.rendered

    async def context(self) -> int:
        """How many tokens a prompt and its answer may have together, asked for once."""
        if self.context_length is None:
            self.context_length = await self.in_time(self.engine.context())
        return self.context_length

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await what generates nothing, as the tokenizer; raise BudgetSpent at the deadline."""
        try:
            async with asyncio.timeout(self.seconds_left):
                return await work
        except TimeoutError as error:
            self.stopped = "seconds"
            raise BudgetSpent(f"the budget of {self.budget.seconds} seconds is spent") from error

    async def extend_in_order(
        self, prefixes: Sequence[Ids], calls: Sequence[Call], reserve: int = 0
    ) -> AsyncGenerator[list[tuple[int, Generation]]]:
        """Continue every prefix by its own call, all at once; what failed is left out, unless everything did. Yield
        continuations, each with the number of its prefix, as `sample_in_order` does: in the order of the prefixes, and
        of one in that of its samples."""
        families = [[Branch(confidence=self._confidence(call)) for _ in range(call.n)] for call in calls]
        parts = zip(prefixes, calls, families, strict=True)
        streams = [
            self._stream(self.engine.extend([ids], call), family, "policy", reserve) for ids, call, family in parts
        ]
        owner = {branch: i for i, family in enumerate(families) for branch in family}
        waiting, results = deque(owner), list[BaseException | None]()
        async with aclosing(in_order(streams, waiting, results)) as arriving:
            async for finished in arriving:
                yield [(owner[branch], branch.generation()) for branch in finished if not branch.failed]
        self._settle(results, families)
        if last := [(owner[branch], branch.generation()) for branch in waiting if not branch.failed]:
            yield last

    def _settle(self, results: Sequence[BaseException | None], families: Sequence[list[Branch]]) -> None:
        """Report the branches that faults took; raise when nothing is left, or for what is no fault of the engine."""
        for result, family in zip(results, families, strict=True):
            if isinstance(result, EngineError):
                self.lose(family, result)
        raise_hopeless(results)

    def child(self, parent: Candidate, generation: Generation) -> Candidate:
        """The parent's path one generation longer, with the scores that it has so far."""
        family = None if parent.id < 0 else parent.id
        return replace(parent, id=self._number(), parent=family, steps=(*parent.steps, generation))

    def clone(self, path: Candidate) -> Candidate:
        """The same path as a branch of its own, whose continuations have seeds of their own."""
        clone = replace(path, id=self._number())
        self.remember([clone])
        return clone

    def remember(self, paths: Sequence[Candidate]) -> None:
        """Keep what is known last of these paths of a search, for the caller who asks for the whole tree."""
        for path in paths:
            known = self.tree.get(path.id, path)
            self.tree[path.id] = replace(path, visits=path.visits or known.visits, value=path.value or known.value)

    def _number(self) -> int:
        self.drawn += 1
        return self.drawn - 1

    async def ask(self, engine: Engine, prefixes: Sequence[Ids], call: Call) -> list[Generation]:
        """Continue every prefix for the scorer, in one request; raise BudgetSpent when not all could finish."""
        branches = [Branch(Logprobs()) for _ in range(len(prefixes) * call.n)]
        async for _ in self._stream(engine.extend(prefixes, call), branches, "scorer", 0):
            pass
        if not all(branch.finish_reason for branch in branches):
            raise BudgetSpent("the budget, or the engine, did not last for all scores")
        return [branch.generation() for branch in branches]

    async def rate(self, model: RewardModel, prompts: Sequence[Ids]) -> list[Rows]:
        """Have a reward model rate prompts, all in one request. It reads and generates nothing."""
        self.usage["scorer"] += Usage(prompt=sum(map(len, prompts)), requests=1)
        return await model.rate(prompts)

    async def score(self, candidates: Sequence[Candidate], aggregate: Aggregate | None = None) -> list[Candidate]:
        """Return the candidates with their scores, all judged at once, folded as the caller or the scorer has it."""
        if self.scorer is None:
            raise ScorerError("this request has no scorer")
        left = self.tokens_left(self.scorer.tokens(self._judgements(candidates)))
        if left is not None and left < 0:
            self.stopped = "tokens"
            raise BudgetSpent("what is left of the budget is not enough to score the candidates")
        scores = await self.in_time(self.scorer.score(self, candidates))
        if len(scores) != len(candidates) or not all(scores):
            raise ScorerError(f"the scorer returned {len(scores)} scores for {len(candidates)} candidates")
        if self.scorer.stepwise and any(len(s) != len(c.texts) for s, c in zip(scores, candidates, strict=True)):
            raise ScorerError("the scorer did not return one score for every step")
        if not all(score is None or math.isfinite(score) for steps in scores for score in steps):
            raise ScorerError("the scorer returned a score that is not a number")
        how = aggregate or self.aggregate
        return [
            candidate.scored(steps, fold(steps, how), self.reasons.pop(candidate.id, ()))
            for candidate, steps in zip(candidates, scores, strict=True)
        ]

    def explain(self, candidate: Candidate, reasons: Sequence[str | None]) -> None:
        """Keep why the scores of a candidate are what they are."""
        if any(reasons):
            self.reasons[candidate.id] = tuple(reason and reason[:LONGEST_REASON] for reason in reasons)

    def _judgements(self, candidates: Sequence[Candidate]) -> int:
        """How many scores are missing: of steps, or of candidates."""
        if self.scorer is None or not self.scorer.stepwise:
            return len(candidates)
        return sum(len(candidate.texts) - len(candidate.scores) for candidate in candidates)

    async def read(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with their final answers and the numbers of the classes these fall in.

        When the deadline leaves no time, answers that are not read do not vote unless they were read before, and those
        that are not compared are equal when they are spelled alike.
        """
        answers = [candidate.answer for candidate in candidates]
        groups = alike(answers)
        async with self._time_to_read():
            answers = await self.reader.read(candidates)
            groups = alike(answers)
            groups = await self.reader.classes(answers)
        return [c.read(answer, group) for c, answer, group in zip(candidates, answers, groups, strict=True)]

    async def read_next(self, seen: Sequence[Candidate], candidate: Candidate) -> list[Candidate]:
        """Read one more sample than those before it, which were read one by one, too: like `read` of all of them, at
        little more than the cost of one."""
        answer, before = None, {c.answer: c.group for c in seen if c.answer is not None}
        groups = before
        async with self._time_to_read():
            [answer] = await self.reader.read([candidate])
            if answer is not None:
                groups = {**before, answer: before.get(answer, len({*before.values()}))}
                groups = dict(zip(groups, await self.reader.classes([*groups]), strict=True))
        if any(groups[known] != group for known, group in before.items()):
            seen = [c.read(c.answer, None if c.answer is None else groups[c.answer]) for c in seen]
        return [*seen, candidate.read(answer, None if answer is None else groups[answer])]

    @asynccontextmanager
    async def _time_to_read(self) -> AsyncIterator[None]:
        """End what reads and compares answers a little after the deadline, with a note in place of an error."""
        try:
            async with asyncio.timeout(None if self.seconds_left is None else self.seconds_left + GRACE_SECONDS):
                yield
        except TimeoutError:
            self.stopped = "seconds"
            self.note(UNREAD)

    async def _stream(
        self, stream: AsyncGenerator[Batch], branches: list[Branch], role: Role, reserve: int
    ) -> AsyncGenerator[Batch]:
        """Pass batches on, counting; end early when the budget does or the engine fails with some branches finished."""
        self.check(reserve)
        self.usage[role] += Usage(requests=1)
        with self.live(branches):
            async with aclosing(stream):
                while (batch := await self._next(stream, branches, role)) is not None:
                    gained = self.count(batch, branches, role)
                    yield batch
                    left = self.tokens_left(reserve)
                    if left is not None and left <= 0:
                        self.overshoot += min(gained, -left)
                        if not all(branch.finish_reason for branch in branches):
                            self.stopped = "tokens"
                            break

    async def _next(self, stream: AsyncGenerator[Batch], branches: list[Branch], role: Role) -> Batch | None:
        """Wait for the next batch until the deadline; the engine's own time-outs are EngineErrors, so this is ours."""
        try:
            async with asyncio.timeout(self.seconds_left):
                return await anext(stream, None)
        except TimeoutError:
            self.stopped = "seconds"
        except EngineError as error:
            if not any(branch.finish_reason for branch in branches):
                raise
            self.lose(branches, error, role)
        return None

    def _note_cut(self, branches: Iterable[Branch], bounded: bool) -> None:
        """`bounded`: the engine was given the budget as the limit, so a branch that reached it ended the budget."""
        if bounded and any(branch.finish_reason == "length" for branch in branches):
            self.stopped = "tokens"

    def _candidates(self, branches: Iterable[Branch]) -> list[Candidate]:
        """Number what was sampled, without ids: it is not to be continued. Branches that a fault took are left out."""
        kept = [branch for branch in branches if not branch.failed]
        return [Candidate(self._number(), (replace(branch.generation(), ids=()),)) for branch in kept]


async def in_order(
    streams: Sequence[AsyncGenerator[Batch]], waiting: deque[Branch], results: list[BaseException | None]
) -> AsyncGenerator[list[Branch]]:
    """Read streams, all at once, and take branches that have finished off the front of `waiting` as they come to be
    there. `results` is filled with what ended each stream, None being its end. Closing it closes the streams."""
    arrived = asyncio.Event()
    reading = [asyncio.create_task(read_on(stream, arrived)) for stream in streams]
    for task in reading:
        task.add_done_callback(lambda _: arrived.set())
    try:
        while not all(task.done() for task in reading):
            await arrived.wait()
            arrived.clear()
            if finished := list(pop_finished(waiting)):
                yield finished
        results += await asyncio.gather(*reading, return_exceptions=True)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def read_on(stream: AsyncGenerator[Batch], arrived: asyncio.Event) -> None:
    """Read a stream to its end, setting the event for everything that comes."""
    async with aclosing(stream):
        async for _ in stream:
            arrived.set()


def raise_hopeless(results: Sequence[BaseException | None]) -> None:
    """Raise what is no fault of the engine, or, when every call failed, the first fault."""
    errors = [result for result in results if result is not None]
    hopeless = [error for error in errors if not isinstance(error, (EngineError, BudgetSpent))]
    if hopeless or len(errors) == len(results) > 0:
        raise (hopeless or errors)[0]


def pop_finished(waiting: deque[Branch]) -> Iterator[Branch]:
    """Take the branches that have finished, or failed, off the front, up to the first that has not."""
    while waiting and (waiting[0].failed or waiting[0].finish_reason is not None):
        yield waiting.popleft()


def alike(answers: Sequence[str | None]) -> list[int | None]:
    """Number the classes of answers that are spelled alike, in order of first appearance."""
    numbers: dict[str, int] = {}
    return [None if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers]


class Strategy(Protocol):
    """Spends a budget to find a better answer. Implementations inherit from it and are frozen dataclasses of `knob`s.

    What has a value here is a default, right for a strategy that says nothing else.
    """

    __slots__ = ()

    type: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[str]
    unsupported: ClassVar[frozenset[str]] = frozenset()
    """Fields of a chat request that it cannot honour."""
    text_only: ClassVar[bool] = False
    """Whether it reads no images, as what continues token ids."""
    temperature_default: ClassVar[float | None] = None
    """The temperature of the samples where a request has none; None: the engine's."""
    size_knob: ClassVar[str | None] = None
    """The knob that says how much it spends, which a benchmark sets; None: it has one size only."""

    @property
    def breadth_knob(self) -> str | None:
        """The knob to lower where there are too many branches at once."""
        return self.size_knob

    @property
    def scorer(self) -> str | dict[str, Any] | None:
        """The scorer it needs, as a request names it."""
        return None

    @property
    def selection(self) -> Selection | None:
        """How it chooses among independent samples, so that a run of N tells what k ≤ N would have done; None: a run
        tells nothing of smaller sizes."""
        return None

    @classmethod
    def at_size(cls, stated: Mapping[str, Any], size: int) -> dict[str, Any]:
        """Return the parameters that a request states, at this size."""
        return {**stated, cls.size_knob: size} if cls.size_knob else {**stated}

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        """Return the upper bound of what it spends on `n` choices when one answer has at most `max_tokens`."""

    def search(self, session: Session) -> AsyncGenerator[Event]:
        """Yield a Round whenever there is a better answer to report, and return when done."""
