"""Running graders.

What a model said may be anything, and is then worth little: no JSON where JSON was wanted, no number where a judge was
asked for one. That is a grade with an error in it. A judge that cannot be reached is an exception instead, since a
reward of 0 for an outage would be learnt from.
"""

from __future__ import annotations

import asyncio
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from service.answers.equality import provable, read_and_given, same_pairs
from service.answers.matching import conforms, matches
from service.answers.pool import AnswerPool, PoolShare
from service.answers.similarity import similarity
from service.graders import formula, specs
from service.graders.asking import Ask
from service.graders.template import Item, Sample, Unfilled, fill
from service.sandbox import GraderFailed, Sandbox

T = TypeVar("T")

log = logging.getLogger(__name__)

Fault = Literal[
    "sample_parse_error",
    "invalid_variable_error",
    "formula_parse_error",
    "model_grader_parse_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "other_error",
]

NUMBER = re.compile(r"(?<![\w.])-?(?:\d+(?:\.\d+)?|\.\d+)(?![\w])")
OUT_OF = re.compile(r"(?<=\d)\s*(?:/|out of)\s*\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Grade:
    """A score and how it came about: `parts` of a multi grader by name, `tokens` that judges generated, by model.

    `details` say more of some faults.
    """

    score: float
    faults: frozenset[Fault] = frozenset()
    parts: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[Fault, str] = field(default_factory=dict)


class Grader(ABC):
    """Grades one sample of one row."""

    async def grade(self, item: Item, sample: Sample) -> float:
        """The score; raise EngineError when a judge could not be asked."""
        return (await self.explain(item, sample)).score

    async def explain(self, item: Item, sample: Sample) -> Grade:
        """The score with what led to it. What cannot be filled in scores 0."""
        try:
            return await self._explain(item, sample)
        except Unfilled as error:
            return Grade(0.0, frozenset({"sample_parse_error" if error.sample else "invalid_variable_error"}))

    @abstractmethod
    async def _explain(self, item: Item, sample: Sample) -> Grade: ...


@dataclass(frozen=True, slots=True)
class StringCheck(Grader):
    spec: specs.StringCheck

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        text, reference = (fill(template, item, sample) for template in self.spec.templates())
        match self.spec.operation:
            case "eq":
                passed = text == reference
            case "ne":
                passed = text != reference
            case "like":
                passed = reference in text
            case "ilike":
                passed = reference.casefold() in text.casefold()
        return Grade(float(passed))


@dataclass(frozen=True, slots=True)
class TextSimilarity(Grader):
    spec: specs.TextSimilarity
    workers: AnswerPool | PoolShare

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        text, reference = (fill(template, item, sample) for template in self.spec.templates())
        try:
            return Grade(await attempt(self.workers, similarity, self.spec.evaluation_metric, text, reference))
        except TimeoutError:  # texts of a length that nobody compares
            return Grade(0.0, frozenset({"sample_parse_error"}))


@dataclass(frozen=True, slots=True)
class Math(Grader):
    spec: specs.Math
    workers: AnswerPool | PoolShare

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        text, right = (fill(template, item, sample) for template in self.spec.templates())
        try:
            answer, reference = await attempt(self.workers, read_and_given, text, right)
            return Grade(float(await self.equal(answer, reference)))
        except TimeoutError:  # a formula that no mathematician would finish
            return Grade(0.0, frozenset({"sample_parse_error"}))

    async def equal(self, answer: str | None, reference: str | None) -> bool:
        if answer is None or reference is None:
            return False
        if answer == reference or not provable(answer, reference):
            return answer == reference
        [same] = await attempt(self.workers, same_pairs, [(answer, reference)])
        return same


@dataclass(frozen=True, slots=True)
class Conformity(Grader):
    """1 or 0, as a job says of a text by a rule: a JSON schema, or a regular expression."""

    input: str
    job: Callable[[str, str], bool | str]
    rule: str
    workers: AnswerPool | PoolShare

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        return await decide(self.workers, self.job, self.rule, fill(self.input, item, sample))


@dataclass(frozen=True, slots=True)
class Python(Grader):
    """A `grade` that fails scores 0, with the fault and what it said: the source's own, or the sandbox's."""

    spec: specs.Python
    sandbox: Sandbox

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        try:
            return Grade(await self.sandbox.run_grader(self.spec.source, sample.as_dict(), item))
        except GraderFailed as error:
            fault: Fault = "python_grader_runtime_error" if error.fault == "runtime" else "python_grader_server_error"
            return Grade(0.0, frozenset({fault}), details={fault: str(error)})


@dataclass(frozen=True, slots=True)
class ScoreModel(Grader):
    spec: specs.ScoreModel
    ask: Ask

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        messages = [
            {"role": message.role, "content": "\n".join(fill(text, item, sample) for text in message.texts)}
            for message in self.spec.input
        ]
        given = self.spec.sampling_params.model_dump(exclude_none=True)
        fields = {"max_tokens" if name == "max_completions_tokens" else name: value for name, value in given.items()}
        answer = await self.ask(self.spec.model, messages, fields)
        tokens = {self.spec.model: answer.tokens}
        low, high = self.spec.range
        score = last_number(answer.text)
        if score is None or not low <= score <= high:
            return Grade(low, frozenset({"model_grader_parse_error"}), tokens=tokens)
        return Grade(score, tokens=tokens)


@dataclass(frozen=True, slots=True)
class Multi(Grader):
    """Asks all its graders at once. What is wrong with one of them is wrong with the whole, which still has a score."""

    spec: specs.Multi
    graders: Mapping[str, Grader]

    async def _explain(self, item: Item, sample: Sample) -> Grade:
        grades = await asyncio.gather(*(grader.explain(item, sample) for grader in self.graders.values()))
        parts = {name: grade.score for name, grade in zip(self.graders, grades, strict=True)}
        faults: frozenset[Fault] = frozenset().union(*(grade.faults for grade in grades))
        tokens: dict[str, int] = {}
        details: dict[Fault, str] = {}
        for grade in grades:
            details |= grade.details
            for model, count in grade.tokens.items():
                tokens[model] = tokens.get(model, 0) + count
        try:
            return Grade(formula.value(self.spec.tree, parts), faults, parts, tokens, details)
        except formula.NoNumber:
            return Grade(0.0, faults | {"formula_parse_error"}, parts, tokens, details)


def build(spec: specs.GraderSpec, workers: AnswerPool | PoolShare, ask: Ask, sandbox: Sandbox) -> Grader:
    """The grader that a checked spec describes."""
    match spec:
        case specs.StringCheck():
            return StringCheck(spec)
        case specs.TextSimilarity():
            return TextSimilarity(spec, workers)
        case specs.Math():
            return Math(spec, workers)
        case specs.JsonSchema():
            return Conformity(spec.input, conforms, spec.text, workers)
        case specs.Regex():
            return Conformity(spec.input, matches, spec.pattern, workers)
        case specs.Python():
            return Python(spec, sandbox)
        case specs.ScoreModel():
            return ScoreModel(spec, ask)
        case specs.Multi():
            return Multi(spec, {name: build(part, workers, ask, sandbox) for name, part in spec.graders.items()})


async def decide(workers: AnswerPool | PoolShare, job: Callable[..., bool | str], *args: Any) -> Grade:
    """1 or 0 as a job says; 0 and a fault when it says why it cannot tell, or takes more than it may."""
    try:
        found = await attempt(workers, job, *args)
    except TimeoutError:
        found = f"took longer than {workers.limit:g} s"
    except MemoryError:
        found = "needs too much memory"
    if isinstance(found, str):
        return Grade(0.0, frozenset({"other_error"}), details={"other_error": found})
    return Grade(float(found))


async def attempt(workers: AnswerPool | PoolShare, job: Callable[..., T], *args: Any) -> T:
    """Run a job, once more when it had to be killed: that the machine was busy must not cost a reward."""
    try:
        return await workers.run(job, *args)
    except TimeoutError:
        log.warning("grading took longer than %g s, trying again", workers.limit)
        return await workers.run(job, *args)


def last_number(text: str) -> float | None:
    """The last number in a judge's reply; of "4/5" or "4 out of 5" it is the 4."""
    found = NUMBER.findall(OUT_OF.sub("", text))
    return float(found[-1]) if found else None
