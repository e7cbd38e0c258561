"""Whether candidates are correct: by the class of their answer, or by a grader of the request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from service.answers import equality
from service.answers.equality import AnswerReader
from service.answers.pool import AnswerPool
from service.background.judges import build_grader
from service.benchmarks.questions import Item
from service.chat.order import wants_json
from service.context import Context
from service.graders import Grader, Sample, check
from service.wire.benchmarks import BenchmarkRequest
from service.wire.chat import AnswerSpec
from strategies import answers
from strategies.types import Candidate


class CandidateGrader(Protocol):
    """Grades the candidates of one question."""

    async def __call__(self, item: Item, candidates: Sequence[Candidate]) -> list[float]:
        """A grade for every candidate, in order; raise EngineError when a model that grades could not be asked."""


class ByAnswer:
    """1 where the answer that was read, and voted with, equals the reference as the vote compares answers."""

    def __init__(self, workers: AnswerPool, spec: AnswerSpec) -> None:
        self.workers = workers
        self.spec = spec

    async def __call__(self, item: Item, candidates: Sequence[Candidate]) -> list[float]:
        reference = await self.workers.run(spell, item["answer"], self.spec)
        share = self.workers.share("jobs", item["question"])
        reader = AnswerReader(share, self.spec.type, self.spec.pattern)
        groups = await reader.classes([reference, *(candidate.answer for candidate in candidates)])
        return [float(group == groups[0] is not None) for group in groups[1:]]


class ByGrader:
    """What a grader says of the text; equal texts are graded once."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    async def __call__(self, item: Item, candidates: Sequence[Candidate]) -> list[float]:
        samples = {candidate.shown: Sample.of(candidate) for candidate in candidates}
        grades = await asyncio.gather(*(self.grader.grade(item, sample) for sample in samples.values()))
        known = dict(zip(samples, grades, strict=True))
        return [known[candidate.shown] for candidate in candidates]


def judge(request: BenchmarkRequest, context: Context) -> CandidateGrader:
    """Who says what is correct."""
    if request.grader is None:
        return ByAnswer(context.workers, answer_spec(request))
    return ByGrader(build_grader(context, check(request.grader)))


def answer_spec(request: BenchmarkRequest) -> AnswerSpec:
    """How answers are read: the reference in the same way as those of the chat requests, where it is not said."""
    return request.answer or AnswerSpec(type="json" if wants_json(request.sampling) else "math")


def spell(reference: str, spec: AnswerSpec) -> str | None:
    """In a worker: a reference in the spelling of the answers; what is boxed in it, if anything is."""
    if spec.type == "json":
        return answers.read(reference, "json")
    return equality.tidy_found(answers.boxed(reference) or reference, spec.type)
