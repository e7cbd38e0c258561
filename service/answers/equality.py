"""Reading and comparing answers in processes that can be killed.

Texts, patterns and formulae come from strangers: a regular expression can backtrack for ever, and so can sympy on a
tower of powers. Everything therefore runs in a small pool whose workers are killed at a time limit, and never on the
event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from strategies import answers
from strategies.answers import AnswerType
from strategies.errors import InvalidParameter
from strategies.types import Candidate

T = TypeVar("T")
Pair = tuple[str, str]
log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
BATCH = 16  # pairs of a job: well below a second
PATIENCE = 3  # time limits of a job that all jobs together may take, waiting included


class Workers:
    """The pool. `limit` is the time of one job in seconds, waiting excluded."""

    def __init__(self, processes: int, limit: float) -> None:
        self.limit = limit
        context = multiprocessing.get_context("spawn")  # threads and event loops do not survive a fork
        self.pool = ProcessPool(max_workers=processes, context=context, initializer=warm, initargs=(os.getpid(),))

    async def run(self, job: Callable[..., T], *args: Any) -> T:
        """Run a job; raise TimeoutError when it had to be killed."""
        future = self.pool.schedule(job, args=args, timeout=self.limit)
        try:
            result: T = await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise TimeoutError("the process died") from error
        return result

    async def warm_up(self) -> None:
        """Have the first worker import what it needs, so that no request waits for it."""
        await asyncio.wrap_future(self.pool.schedule(same_pairs, args=([("x+1", "1+x")],)))

    def close(self) -> None:
        self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()


def warm(parent: int) -> None:
    """When a worker starts: die with the parent, leave Ctrl-C to it, and import the slow libraries."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a busy worker would not see a closed pipe
    if os.getppid() != parent:
        os._exit(1)  # it was too late to ask
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of each time limit that is left to us


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Implements `Reader`: how one request wants its answers read (`answer` in the request)."""

    workers: Workers
    kind: AnswerType = "math"
    pattern: str | None = None

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Read all in one job; tool calls are their own canonical answers. Cut samples have none."""
        texts = [self.text(candidate) for candidate in candidates]
        found: Sequence[str | None] = [None] * len(texts)
        try:
            found = await self.workers.run(read_all, texts, self.kind, self.pattern)
        except TimeoutError:
            if self.pattern is not None:
                raise InvalidParameter(
                    "answer.pattern", f"the pattern took longer than {self.workers.limit:g} s on an answer; simplify it"
                ) from None
            log.warning("reading %d answers took longer than %g s", len(texts), self.workers.limit)
        calls = [tool_calls(candidate) for candidate in candidates]
        return [call or answer for call, answer in zip(calls, found, strict=True)]

    def text(self, candidate: Candidate) -> str:
        return candidate.text if candidate.complete else ""

    async def classes(self, found: Sequence[str | None]) -> list[int | None]:
        """Equal by spelling, then, for mathematics, by equivalence of any two spellings, transitively.

        What a pattern found may be anything: there only the spelling counts.
        """
        spellings = list(dict.fromkeys(answer for answer in found if answer is not None))
        parent = {spelling: spelling for spelling in spellings}
        if self.kind in ("math", "number") and self.pattern is None:
            for left, right in await self.equal_pairs(spellings):
                join(parent, left, right)
        numbers: dict[str, int] = {}
        return [None if a is None else numbers.setdefault(root(parent, a), len(numbers)) for a in found]

    async def equal_pairs(self, spellings: Sequence[str]) -> list[Pair]:
        """The pairs that are mathematically equal; one that is not known in time is taken to differ.

        Plain numbers need no proof: they were spelled canonically. Where a job had to be killed, the formulae that are
        hopeless even by themselves are left out and its other pairs tried one by one.
        """
        pairs = [pair for pair in combinations(sorted(spellings), 2) if provable(*pair)]
        known = await self.verdicts(pairs, BATCH)
        if unknown := [pair for pair in pairs if known[pair] is None]:
            log.warning("comparing %d of %d pairs of answers took too long", len(unknown), len(pairs))
            alone = await self.verdicts([(formula, "0") for formula in sorted({*chain(*unknown)})], 1)
            hopeless = {formula for (formula, _), same in alone.items() if same is None}
            known |= await self.verdicts([pair for pair in unknown if hopeless.isdisjoint(pair)], 1)
        return [pair for pair in pairs if known[pair]]

    async def verdicts(self, pairs: Sequence[Pair], size: int) -> dict[Pair, bool | None]:
        """Whether pairs are equal, `size` of them a job, waiting a few time limits for all; None is not known."""
        batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        jobs = [asyncio.ensure_future(self.same(batch)) for batch in batches]
        try:
            if jobs:
                await asyncio.wait(jobs, timeout=PATIENCE * self.workers.limit)
        finally:
            for job in jobs:
                job.cancel()
        known: dict[Pair, bool | None] = dict.fromkeys(pairs)
        for batch, job in zip(batches, jobs, strict=True):
            if job.done():
                known.update(zip(batch, job.result(), strict=True))
        return known

    async def same(self, pairs: Sequence[Pair]) -> Sequence[bool | None]:
        try:
            return await self.workers.run(same_pairs, pairs)
        except TimeoutError:
            return [None] * len(pairs)


def tool_calls(candidate: Candidate) -> str | None:
    """The canonical JSON of a complete candidate's tool calls: names and arguments, without ids."""
    calls = candidate.last.message.get("tool_calls")
    if not calls or not candidate.complete:
        return None
    return answers.canonical_json([[c["function"].get("name"), loads(c["function"].get("arguments"))] for c in calls])


def loads(arguments: object) -> object:
    try:
        return json.loads(str(arguments))
    except (ValueError, RecursionError):
        return arguments


def root(parent: dict[str, str], spelling: str) -> str:
    while parent[spelling] != spelling:
        spelling = parent[spelling]
    return spelling


def join(parent: dict[str, str], left: str, right: str) -> None:
    parent[root(parent, right)] = root(parent, left)


def provable(left: str, right: str) -> bool:
    """Whether it is worth asking a mathematician, to whom "east" and "seat" are products of the same four letters.

    Two plain numbers or two choices differ when their spellings do, two words when not only the case does.
    """
    if left.isalpha() and right.isalpha():
        return len(left) > 1 and left.casefold() == right.casefold()
    plain = [answers.exact(answer) is not None or (len(answer) == 1 and answer.isalpha()) for answer in (left, right)]
    return not all(plain) and max(len(left), len(right)) <= 400


def read_all(texts: Sequence[str], kind: AnswerType, pattern: str | None) -> list[str | None]:
    """In a worker: the answer of every text, None where there is none."""
    if pattern is None:
        return [answers.read(text, kind) if text else None for text in texts]
    import regex

    compiled = regex.compile(pattern)
    matches = [list(compiled.finditer(text)) for text in texts]
    return [spelled(found[-1][1], kind) if found else None for found in matches]


def spelled(answer: str | None, kind: AnswerType) -> str | None:
    """What a pattern's group found, in the canonical spelling of its kind."""
    if answer is None or not answer.strip():
        return None
    return answers.tidy(answer) if kind in ("math", "number") else " ".join(answer.split())


def read_and_given(text: str, reference: str) -> tuple[str | None, str | None]:
    """In a worker: the answer of a text, and the one it is to be compared with.

    That is what GSM8K has behind its ####. Of a worked solution (sentences, lines, a box) it is what it ends in, else
    all of it: `\\frac{1}{2}` is no 2.
    """
    right = reference.rpartition("####")[2].strip()
    worked = "\n" in right or answers.boxed(right) is not None or answers.phrase(right) or answers.PROSE.search(right)
    return answers.read(text), answers.read(right) if worked else spelled(right, "math")


def same_pairs(pairs: Sequence[Pair]) -> list[bool]:
    """In a worker: whether each pair is equal, either way round (`verify` is not symmetric)."""
    from math_verify import parse, verify

    def formula(answer: str) -> Any:
        return parse(f"${answer}$", parsing_timeout=None)

    parsed = {answer: formula(answer) for answer in {answer for pair in pairs for answer in pair}}

    def same(left: str, right: str) -> bool:
        a, b = parsed[left], parsed[right]
        return bool(a and b) and any(
            verify(gold, guess, timeout_seconds=None, raise_on_error=False) for gold, guess in ((a, b), (b, a))
        )

    return [same(left, right) for left, right in pairs]
