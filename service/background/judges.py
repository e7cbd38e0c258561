"""Graders inside the service: their judges are asked through the service's own engine and admission."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from service.answers.equality import AnswerReader
from service.answers.matching import check_regex, check_schema
from service.context import Context
from service.errors import ApiError
from service.graders import Answer, Grader, build, check
from service.graders.asking import Messages
from service.graders.specs import GraderSpec, JsonSchema, Multi, One, Python, Regex, ScoreModel, dump
from strategies.errors import EngineRefused
from strategies.session import Session
from strategies.types import Call, Chat

JUDGEMENT_TOKENS = 256  # what a judge is thought to write, for admission


@dataclass(frozen=True, slots=True)
class EngineAsk:
    context: Context

    async def __call__(self, model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
        served = await self.context.models.find(model)
        if served is None:
            self.context.models.check_heard(model)
            raise EngineRefused(f"the model {model!r} does not exist", 404)
        salt = self.context.salts.salt(self.context.jobs.name)
        engine = self.context.engine(served, uuid4().hex, salt)
        kept = {name: value for name, value in fields.items() if name != "seed"}
        session = Session(
            Chat(tuple(messages), kept),
            engine,
            AnswerReader(self.context.workers.share(self.context.jobs.name, "judge")),
        )
        async with self.context.admission.hold(self.context.jobs.name, 1, fields.get("max_tokens") or JUDGEMENT_TOKENS):
            [candidate] = await session.sample(Call(seed=fields.get("seed")))
        self.context.metrics.tokens.labels("grader", "scorer", "discarded").inc(candidate.tokens)
        return Answer(candidate.text, candidate.tokens)


async def resolve_grader(context: Context, body: object, where: str) -> dict[str, Any]:
    """A grader as it was described, its judges by the names of models; raise ApiError for one that cannot be used."""
    spec = check(body, where)
    if isinstance(spec, Multi):
        graders = {
            name: await resolve_part(context, part, f"{where}.graders.{name}") for name, part in spec.graders.items()
        }
        return dump(spec.model_copy(update={"graders": graders}))
    return dump(await resolve_part(context, spec, where))


async def resolve_part(context: Context, spec: One, where: str) -> One:
    """One grader, whose code and patterns are tried where they may take anything: in processes that can be killed."""
    match spec:
        case ScoreModel():
            return await resolve_judge(context, spec, where)
        case Python():
            refuse(await context.sandbox.check_grader(spec.source), f"{where}.source")
        case Regex():
            refuse(await problem(context, check_regex, spec.pattern), f"{where}.pattern")
        case JsonSchema():
            refuse(await problem(context, check_schema, spec.text), f"{where}.schema")
    return spec


async def problem(context: Context, job: Callable[[Any], str | None], text: object) -> str | None:
    """What a job finds wrong, or that it takes too much."""
    try:
        return await context.workers.run(job, text)
    except TimeoutError:
        return f"takes longer than {context.workers.limit:g} s to read; simplify it"
    except MemoryError:
        return f"takes more than {context.workers.memory // 2**20} MiB to read; simplify it"


def refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise ApiError(400, f"{where}: {problem}", where, "invalid_value")


async def resolve_judge(context: Context, spec: ScoreModel, where: str) -> ScoreModel:
    """An alias means what it stands for now: rewards must not change in the middle of a job."""
    model = await context.models.require(spec.model, f"{where}.model")
    context.models.check_served(model, f"{where}.model")
    return spec.model_copy(update={"model": model})


def build_grader(context: Context, spec: GraderSpec) -> Grader:
    return build(spec, context.workers, EngineAsk(context), context.sandbox)
