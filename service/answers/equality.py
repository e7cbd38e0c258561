"""Reading and comparing the answers of one request, in processes that can be killed (pool.py).

Classes of equal answers grow as answers come: what was read is not read again, and what was compared is not compared
again. Equal spellings need no proof, nor do plain numbers, which are spelled canonically. Any other answer is compared
with one answer of each class, and with the others that came at the same time, in the order of their spelling: so the
classes of one round do not depend on the order in which its answers arrived.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from strategies import answers
from strategies.answers import AnswerType
from strategies.errors import InvalidParameter
from strategies.types import Candidate

T = TypeVar("T")
Pair = tuple[str, str]
log = logging.getLogger(__name__)

BATCH = 16  # pairs of a job: well below a second
TEXTS = 256  # of a job
PATIENCE = 3  # time limits of a job that all jobs of a comparison together may take, on each worker
MOST_NUMBERS, MOST_FORMULAE = 256, 64
"""Classes of a request that are compared with, the first ones; answers beyond them by their spelling only."""
CAPPED = "there are too many distinct answers to compare all of them: the later ones are compared by their spelling"
UNDECIDED = "some answers could not be compared in time and are counted as different: {}"
UNREAD = "{} answers could not be read in time, and do not vote"


class Share(Protocol):
    """What a reader needs of the pool of processes."""

    @property
    def limit(self) -> float: ...

    async def run(self, job: Callable[..., T], *args: Any) -> T: ...

    async def running(self, limits: int) -> None: ...


@dataclass(slots=True)
class AnswerReader:
    """Implements `Reader`: how one request wants its answers read (`answer` in the request).

    `remarks` are for the caller of the request; `undecided` counts the answers whose comparison took too long.
    """

    workers: Share
    kind: AnswerType = "math"
    pattern: str | None = None
    remarks: list[str] = field(default_factory=list)
    undecided: int = 0
    known: dict[Key, str | None] = field(default_factory=dict)  # answers, by candidate
    parent: dict[str, str] = field(default_factory=dict)  # of every spelling: another of its class, or itself
    numbers: list[str] = field(default_factory=list)  # what formulae are compared with: one answer of each class
    formulae: list[str] = field(default_factory=list)  # what all answers are compared with
    capped: bool = False

    async def read(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Read those that are new; tool calls are their own canonical answers. Cut samples have none."""
        new = {key(candidate): candidate for candidate in candidates if key(candidate) not in self.known}
        fresh = list(new.values())
        parts = [fresh[i : i + TEXTS] for i in range(0, len(fresh), TEXTS)]
        for part, found in zip(parts, await asyncio.gather(*map(self.read_part, parts)), strict=True):
            for candidate, answer in zip(part, found, strict=True):
                self.known[key(candidate)] = tool_calls(candidate) or answer
        return [self.known[key(candidate)] for candidate in candidates]

    async def read_part(self, candidates: Sequence[Candidate]) -> Sequence[str | None]:
        """The answers of some texts, in one job."""
        texts = [candidate.text if candidate.complete else "" for candidate in candidates]
        limit = self.workers.limit
        try:
            return await self.workers.run(read_all, texts, self.kind, self.pattern)
        except (TimeoutError, MemoryError) as error:
            if self.pattern is not None:
                took = f"took longer than {limit:g} s" if isinstance(error, TimeoutError) else "needs too much memory"
                raise InvalidParameter("answer.pattern", f"the pattern {took} on an answer; simplify it") from None
        log.warning("reading %d answers took longer than %g s", len(texts), limit)
        self.remark(UNREAD.format(sum(map(bool, texts))))
        return [None] * len(texts)

    async def classes(self, found: Sequence[str | None]) -> list[int | None]:
        """Equal by spelling, then, for mathematics, by equivalence with a class, transitively.

        What a pattern found may be anything: there only the spelling counts.
        """
        new = [spelling for spelling in dict.fromkeys(found) if spelling is not None and spelling not in self.parent]
        self.parent.update((spelling, spelling) for spelling in new)
        if self.kind in ("math", "number") and self.pattern is None and new:
            for left, right in await self.equal_pairs(sorted(new)):
                join(self.parent, left, right)
            self.numbers, self.formulae = map(self.representatives, (self.numbers, self.formulae))
        numbers: dict[str, int] = {}
        return [None if a is None else numbers.setdefault(root(self.parent, a), len(numbers)) for a in found]

    async def equal_pairs(self, new: Sequence[str]) -> list[Pair]:
        """The pairs that are mathematically equal, each of a new answer and an earlier or another new one.

        Where a job had to be killed, the formulae that are hopeless even by themselves are left out and its other pairs
        tried one by one. One that is not known in time is taken to differ, and named.
        """
        pairs = list(self.pairs(new))
        known = await self.verdicts(pairs, BATCH)
        if unknown := [pair for pair in pairs if known[pair] is None]:
            log.warning("comparing %d of %d pairs of answers took too long", len(unknown), len(pairs))
            names = sorted({formula for pair in unknown for formula in pair})
            alone = await self.verdicts([(formula, "0") for formula in names], 1)
            hopeless = {formula for (formula, _), same in alone.items() if same is None}
            known |= await self.verdicts([pair for pair in unknown if hopeless.isdisjoint(pair)], 1)
            unsure = [pair for pair in pairs if known[pair] is None]
            self.report({name for pair in unsure for name in hopeless.intersection(pair) or pair})
        return [pair for pair in pairs if known[pair]]

    def pairs(self, new: Sequence[str]) -> Iterator[Pair]:
        """What is worth comparing of some new answers, as far as there are not too many."""
        for spelling in new:
            number = plain(spelling)
            group, most = (self.numbers, MOST_NUMBERS) if number else (self.formulae, MOST_FORMULAE)
            if len(group) < most:
                others = self.formulae if number else [*self.numbers, *self.formulae]
                yield from ((other, spelling) for other in others if provable(other, spelling))
                group.append(spelling)
            else:
                self.capped = True
        if self.capped and self.formulae:  # numbers alone need no comparison
            self.remark(CAPPED)

    def representatives(self, spellings: Sequence[str]) -> list[str]:
        """The first spelling of each class."""
        first: dict[str, str] = {}
        for spelling in spellings:
            first.setdefault(root(self.parent, spelling), spelling)
        return list(first.values())

    def report(self, unknown: Iterable[str]) -> None:
        """Name the answers whose comparison is not known."""
        names = sorted(name for name in unknown if not plain(name))
        self.undecided += len(names)
        if names:
            shown = ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in names[:8])
            self.remark(UNDECIDED.format(shown))

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    async def verdicts(self, pairs: Sequence[Pair], size: int) -> dict[Pair, bool | None]:
        """Whether pairs are equal, `size` of them a job, for as long as a few time limits; None is not known."""
        batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        jobs = [asyncio.ensure_future(self.same(batch)) for batch in batches]
        if not jobs:
            return {}
        finished = asyncio.ensure_future(asyncio.wait(jobs))
        patience = asyncio.ensure_future(self.workers.running(PATIENCE))
        waits: list[asyncio.Future[Any]] = [finished, patience]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*jobs, *waits):
                task.cancel()
        known: dict[Pair, bool | None] = dict.fromkeys(pairs)
        for batch, job in zip(batches, jobs, strict=True):
            if job.done() and not job.cancelled():
                known.update(zip(batch, job.result(), strict=True))
        return known

    async def same(self, pairs: Sequence[Pair]) -> Sequence[bool | None]:
        try:
            return await self.workers.run(same_pairs, pairs)
        except (TimeoutError, MemoryError):
            return [None] * len(pairs)


Key = tuple[int, str, bool]


def key(candidate: Candidate) -> Key:
    """What an answer can be remembered by: a path that has the same number may have grown, or been cut."""
    return candidate.id, candidate.last.text, candidate.complete


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
    return not (plain(left) and plain(right)) and max(len(left), len(right)) <= 400


def plain(answer: str) -> bool:
    """Whether its spelling says all: a number, or a single letter."""
    return answers.exact(answer) is not None or (len(answer) == 1 and answer.isalpha())


def check_pattern(pattern: str) -> str | None:
    """In a worker: what is wrong with a pattern; None when it has one group, which is the answer."""
    import regex

    try:
        groups = regex.compile(pattern).groups
    except (regex.error, RecursionError) as error:
        return f"is no regular expression: {error}"
    return None if groups == 1 else f"must have exactly one group, which is the answer; it has {groups}"


def read_all(texts: Sequence[str], kind: AnswerType, pattern: str | None) -> list[str | None]:
    """In a worker: the answer of every text, None where there is none."""
    if pattern is None:
        return [answers.read(text, kind) if text else None for text in texts]
    import regex

    compiled = regex.compile(pattern)
    matches = [list(compiled.finditer(text)) for text in texts]
    return [tidy_found(found[-1][1], kind) if found else None for found in matches]


def tidy_found(answer: str | None, kind: AnswerType) -> str | None:
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
    return answers.read(text), answers.read(right) if worked else tidy_found(right, "math")


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
